"""The levels that are predicted to be worth their price."""

from typing import Any

import torch

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.plan import Plan, State
from kdvit_mm.selection.selectors.learning import (
    LearningSelector,
    Records,
    above_price,
    explained_variance,
    mlp,
)
from kdvit_mm.selection.selectors.state import StateEncoder

#: What is kept of an observed image.
KEPT = ('raw', 'quality')


@MODELS.register_module()
class RegressedLevels(LearningSelector):
    """Predicts each level's quality of an image, takes those that pay.

    The policy's simplest rival: a network on the same state, trained by
    least squares on the known qualities of the last images. A level is taken
    if its prediction, in deviations of all levels' quality, is above
    lambda_cost times its cost, the best one always and, in training mode, any
    other at random with the exploration rate. Until there was something to
    learn from, all are taken.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): As in :class:`LevelSelector`. Defaults to 0.0.
        exploration (float): Probability of taking a level that does not
            seem to pay. Defaults to 0.1.
        hidden (int): Width of the two hidden layers. Defaults to 64.
        lr (float): Learning rate of AdamW. Defaults to 1e-3.
        weight_decay (float): Weight decay of AdamW. Where quality is mostly
            noise, a much smaller one overfits to the images. Defaults to 1.0.
        epochs (int): Passes over the window per update. Defaults to 1.
        minibatch (int): Images of a step. Defaults to 64.
        window (int): Number of last images that are learned from. Defaults
            to 8192.
        seed (int | None): As in :class:`LevelSelector`. Defaults to None.
        init_cfg (dict | None): As in :class:`LevelSelector`. Defaults to
            None.

    Raises:
        ValueError: If ``exploration`` is not in [0, 1].
    """

    def __init__(
        self,
        num_levels: int,
        lambda_cost: float = 0.0,
        exploration: float = 0.1,
        hidden: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 1.0,
        epochs: int = 1,
        minibatch: int = 64,
        window: int = 8192,
        seed: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_levels, lambda_cost, seed, init_cfg)
        if not 0 <= exploration <= 1:
            raise ValueError(
                f'RegressedLevels: exploration={exploration} is not a '
                'probability in [0, 1].'
            )
        self.exploration = exploration
        self.epochs = epochs
        self.minibatch = minibatch
        self.window = window
        self.encoder = StateEncoder(num_levels)
        self.network = mlp(
            self.encoder.size, hidden, num_levels, 0.01, self.seed
        ).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr, weight_decay=weight_decay
        )
        self._window: Records = {}

    @torch.no_grad()
    def choose(self, state: State) -> Plan:
        """Chooses the levels."""
        costs = state.costs
        raw, finite = self.encoder(state, self.running_losses)
        if self.quality_moments.count:
            predicted = self._predict(raw)
            pays = above_price(predicted - self.lambda_cost * costs)
        else:
            pays = costs.new_ones(len(raw), self.num_levels).bool()
        rate = self.exploration if self.training else 0.0
        drawn = torch.rand(pays.shape, generator=self._draws())
        levels = pays | (drawn.to(costs.device) < rate)
        probabilities = torch.where(pays, 1.0, rate)
        if self.training:
            self._count_excluded(finite)
            self._keep_until_observed(finite, costs, raw=raw)
        drawn_as = torch.where(levels, probabilities, 1 - probabilities)
        return self._plan_of(
            levels,
            costs,
            finite,
            probabilities,
            log_prob=drawn_as.log().sum(1),
        )

    def extra_state(self) -> dict[str, Any]:
        """Seed, buffers and optimiser, as plain data."""
        return super().extra_state() | {'window': dict(self._window)}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`extra_state` gave.

        Args:
            state (dict): The state.
        """
        super().load_extra_state(state)
        self._window = {
            key: tensor.to(self.step.device)
            for key, tensor in state['window'].items()
        }

    def _update(
        self, records: Records, generator: torch.Generator
    ) -> dict[str, float]:
        new = {key: records[key][records['valid']] for key in KEPT}
        foresight = self._foresight(**new)
        self.encoder.update(records['raw'][records['finite']])
        old = self._window or {key: new[key][:0] for key in KEPT}
        self._window = {
            key: torch.cat([old[key], new[key]])[-self.window :]
            for key in KEPT
        }
        number = len(self._window['raw'])
        if not number:
            return {}
        with self._trainable():
            for _ in range(self.epochs):
                order = torch.randperm(number, generator=generator)
                for index in order.split(self.minibatch):
                    index = index.to(self.step.device)
                    loss = self._error(
                        **{key: x[index] for key, x in self._window.items()}
                    )
                    assert self.optimizer is not None
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
        return {
            'loss': loss.item(),
            'explained_variance': foresight,
            'excluded': float((~records['valid']).sum()),
        }

    def _predict(self, raw: torch.Tensor) -> torch.Tensor:
        """Quality in deviations."""
        return self.network(self.encoder.normalise(raw))

    def _error(self, raw: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the levels that are known."""
        known = ~quality.isnan()
        target = self._in_deviations(quality)
        return (self._predict(raw) - target)[known].square().mean()

    @torch.no_grad()
    def _foresight(self, raw: torch.Tensor, quality: torch.Tensor) -> float:
        """How well the qualities of images not seen before are predicted."""
        known = ~quality.isnan()
        predicted = self._predict(raw)
        target = self._in_deviations(quality)
        return explained_variance(predicted[known], target[known])
