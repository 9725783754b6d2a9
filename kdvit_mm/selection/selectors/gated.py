"""Soft weights of the levels from a gating network."""

from typing import Any

import torch
from mmengine.dist import all_reduce

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.plan import Plan, State
from kdvit_mm.selection.selectors.learning import (
    LearningSelector,
    Records,
    mlp,
)
from kdvit_mm.selection.selectors.state import StateEncoder


@MODELS.register_module()
class GatedLevels(LearningSelector):
    """All levels for every image, with weights that the image decides.

    The weights are a softmax over the levels times L. They carry a gradient,
    so that the distill loss itself trains the network, on the state that the
    policy has too; :meth:`learn` steps an Adam of its own with the gradients
    that have gathered in ``.grad`` since the last call. Keep the parameters
    out of the student's optimiser, which would step and clear them too.
    Nothing is saved: a low weight costs as much as a high one.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): As in :class:`LevelSelector`, without effect.
            Defaults to 0.0.
        hidden (int): Width of the two hidden layers. Defaults to 64.
        lr (float): Learning rate of Adam. Defaults to 3e-4.
        seed (int | None): As in :class:`LevelSelector`. Defaults to None.
        init_cfg (dict | None): As in :class:`LevelSelector`. Defaults to
            None.
    """

    def __init__(
        self,
        num_levels: int,
        lambda_cost: float = 0.0,
        hidden: int = 64,
        lr: float = 3e-4,
        seed: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_levels, lambda_cost, seed, init_cfg)
        self.encoder = StateEncoder(num_levels)
        self.network = mlp(
            self.encoder.size, hidden, num_levels, 0.01, self.seed
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr)

    def choose(self, state: State) -> Plan:
        """Chooses all levels and weights them."""
        raw, finite = self.encoder(state, self.running_losses)
        logits = self.network(self.encoder.normalise(raw))
        weights = self.num_levels * logits.softmax(1)
        if self.training:
            self._count_excluded(finite)
            self._keep({'raw': raw, 'finite': finite})
        return Plan.of(
            torch.ones_like(weights, dtype=torch.bool),
            state.costs,
            weights=torch.where(finite[:, None], weights, 1.0),
        )

    def observe(self, quality: torch.Tensor, valid: torch.Tensor) -> None:
        """Does nothing: the gradient is all that is learned from."""

    def extra_state(self) -> dict[str, Any]:
        """Seed, buffer, optimiser and gradients, as plain data."""
        gradients = [p.grad for p in self.network.parameters()]
        return super().extra_state() | {'gradients': gradients}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`extra_state` gave.

        Args:
            state (dict): The state.
        """
        super().load_extra_state(state)
        for parameter, gradient in zip(
            self.network.parameters(), state['gradients'], strict=True
        ):
            if gradient is not None:
                parameter.grad = gradient.to(parameter, copy=True)

    def _update(
        self, records: Records, generator: torch.Generator
    ) -> dict[str, float]:
        self.encoder.update(records['raw'][records['finite']])
        assert self.optimizer is not None
        gradients = []
        for parameter in self.network.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            # Of equal gradients, such as DistributedDataParallel's, this is
            # a mean as well.
            all_reduce(parameter.grad, 'mean')
            gradients.append(parameter.grad.flatten())
        norm = float(torch.cat(gradients).norm())
        # A gradient scaler's overflow is infinite; without a loss it is 0.
        if 0 < norm < torch.inf:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return {'gradient_norm': norm} if norm else {}
