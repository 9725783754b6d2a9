"""What the selectors that learn have in common."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.logging import MMLogger
from torch import nn

from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.selection.plan import Plan
from kdvit_mm.selection.selectors.selector import (
    LevelSelector,
    seeded_generator,
)
from kdvit_mm.selection.selectors.state import RunningMoments

Records = dict[str, torch.Tensor]


class LearningSelector(LevelSelector):
    """Base of the selectors that learn from what levels were worth.

    In training mode a subclass hands each decision to
    :meth:`_keep_until_observed`; :meth:`observe` completes it and puts those
    of all ranks into a buffer. :meth:`learn` empties the buffer, and every
    rank makes the same update from it. Buffer, parameters and statistics are
    equal on all ranks, so that rank 0's checkpoint is all that a resume
    needs, with any number of ranks. Parameters need gradients only then:
    neither the student's optimiser nor DistributedDataParallel takes them.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): As in :class:`LevelSelector`. Defaults to 0.0.
        seed (int | None): As in :class:`LevelSelector`. Defaults to None.
        init_cfg (dict | None): As in :class:`LevelSelector`. Defaults to
            None.
    """

    learns = True
    removed_keys = {
        'remembers': 'What levels were worth to an image before had no '
        'measurable effect (docs/level_selection.md).',
    }

    updates: torch.Tensor
    num_excluded: torch.Tensor

    def __init__(
        self,
        num_levels: int,
        lambda_cost: float = 0.0,
        seed: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_levels, lambda_cost, seed, init_cfg)
        self.quality_moments = RunningMoments(1)
        self.register_buffer('updates', torch.zeros((), dtype=torch.long))
        #: Images of all ranks left out because of a NaN or an infinity in
        #: their maps.
        self.register_buffer('num_excluded', torch.zeros((), dtype=torch.long))
        self.optimizer: torch.optim.Optimizer | None = None
        self._pending: Records | None = None
        self._buffer: list[Records] = []
        self._has_warned = False

    def observe(self, quality: torch.Tensor, valid: torch.Tensor) -> None:
        """Takes what the levels of the last plan were worth.

        All ranks have to call it.

        Args:
            quality (torch.Tensor): Benefit of each level, of shape (N, L);
                NaN where it is not known.
            valid (torch.Tensor): Whether to learn from the image, booleans
                of shape (N,).

        Raises:
            RuntimeError: If there was no plan in training mode since.
        """
        record, self._pending = self._pending, None
        if record is None:
            raise RuntimeError(
                f'{type(self).__name__}.observe: nothing was chosen in '
                'training mode since the last call.'
            )
        quality = quality.detach().to(record['costs'])
        record['quality'] = torch.where(quality.isfinite(), quality, torch.nan)
        record['valid'] = (
            valid.to(record['finite'])
            & record['finite']
            & self._is_complete(record)
        )
        self._keep(record)

    def learn(self) -> dict[str, float]:
        """Makes one update from what all ranks observed since the last."""
        records = self._take_buffer()
        if not records:
            return {}
        self.updates += 1
        if 'quality' in records:
            quality = records['quality'][records['valid']]
            self.quality_moments.update(quality[~quality.isnan()][:, None])
        generator = seeded_generator(1, self.seed, int(self.updates))
        with torch.autocast(self.step.device.type, enabled=False):
            return self._update(records, generator)

    def extra_state(self) -> dict[str, Any]:
        """Seed, buffer and optimiser, as plain data."""
        state = super().extra_state() | {'buffer': list(self._buffer)}
        if self.optimizer is not None:
            state['optimizer'] = self.optimizer.state_dict()
        return state

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`extra_state` gave.

        Args:
            state (dict): The state.
        """
        super().load_extra_state(state)
        self._buffer = [
            {key: tensor.cpu() for key, tensor in record.items()}
            for record in state['buffer']
        ]
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state['optimizer'])

    @abstractmethod
    def _update(
        self, records: Records, generator: torch.Generator
    ) -> dict[str, float]:
        """Learns from the decisions of all ranks; returns diagnostics."""

    def _is_complete(self, record: Records) -> torch.Tensor:
        """Whether an image's quality is known as far as is needed, (N,)."""
        return ~record['quality'].isnan().all(1)

    def _keep_until_observed(
        self, finite: torch.Tensor, costs: torch.Tensor, **record: torch.Tensor
    ) -> None:
        """Keeps a decision, of tensors of shape (N, ...)."""
        costs = costs.expand(len(finite), -1)
        self._pending = dict(finite=finite, costs=costs, **record)

    def _count_excluded(self, finite: torch.Tensor) -> None:
        excluded = (~finite).sum()
        all_reduce(excluded)
        self.num_excluded += excluded
        if not self._has_warned and not finite.all():
            self._has_warned = True
            MMLogger.get_current_instance().warning(
                f'{type(self).__name__}: the maps of an image hold NaN or '
                'infinity. Such images get all levels and are not learned '
                'from; num_excluded counts them.'
            )

    def _plan_of(
        self,
        levels: torch.Tensor,
        costs: torch.Tensor,
        finite: torch.Tensor,
        probabilities: torch.Tensor,
        **known: torch.Tensor,
    ) -> Plan:
        """The plan, of all levels for images whose maps have NaN."""
        return Plan.of(
            levels | ~finite[:, None],
            costs,
            probabilities=torch.where(finite[:, None], probabilities, 1.0),
            **{
                key: torch.where(finite, number, 0.0)
                for key, number in known.items()
            },
        )

    def _in_deviations(self, quality: torch.Tensor) -> torch.Tensor:
        """Quality in running deviations of all levels' quality."""
        return quality / self.quality_moments.deviation

    def _keep(self, record: Records) -> None:
        """Puts the decisions of all ranks into the buffer."""
        own = {key: tensor.cpu() for key, tensor in record.items()}
        self._buffer += all_gather_object(own)

    def _take_buffer(self) -> Records:
        """Empties the buffer."""
        buffer, self._buffer = self._buffer, []
        return {
            key: torch.cat([record[key] for record in buffer]).to(
                self.step.device
            )
            for key in (buffer[0] if buffer else ())
        }

    @contextmanager
    def _trainable(self) -> Iterator[list[nn.Parameter]]:
        """The parameters, which need gradients inside only."""
        parameters = list(self.parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield parameters
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None


def mlp(
    inputs: int, hidden: int, outputs: int, gain: float, seed: int
) -> nn.Sequential:
    """A network of two hidden layers, which draws from a stream of its own.

    Args:
        inputs (int): Input features.
        hidden (int): Width of the hidden layers.
        outputs (int): Output features.
        gain (float): Gain of the output layer's orthogonal weights.
        seed (int): Seed of the weights.

    Returns:
        nn.Sequential: The network, with orthogonal weights and no bias.
    """
    with isolated_rng(seed):
        linears = [
            nn.Linear(inputs, hidden),
            nn.Linear(hidden, hidden),
            nn.Linear(hidden, outputs),
        ]
        for linear, scale in zip(linears, (2**0.5, 2**0.5, gain), strict=True):
            nn.init.orthogonal_(linear.weight, scale)
            nn.init.zeros_(linear.bias)
    first, second, last = linears
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)


def above_price(worth: torch.Tensor) -> torch.Tensor:
    """Levels that are worth more than 0, or else the best one.

    As worth adds up, this is the set that is worth most, except the empty one.

    Args:
        worth (torch.Tensor): Quality minus price, of shape (..., L).

    Returns:
        torch.Tensor: Booleans of the same shape.
    """
    best = torch.zeros_like(worth, dtype=torch.bool)
    best.scatter_(-1, worth.argmax(-1, keepdim=True), True)
    return best | (worth > 0)


def explained_variance(predicted: torch.Tensor, target: torch.Tensor) -> float:
    """Share of the target's variance that a prediction explains.

    Args:
        predicted (torch.Tensor): Predictions, of shape (n,).
        target (torch.Tensor): What came, of shape (n,).

    Returns:
        float: 1 at best, below 0 if worse than a constant; 0 where the
        target does not vary.
    """
    if target.numel() < 2 or (target == target[0]).all():
        return 0.0
    error = target - predicted
    return float(1 - error.var() / target.var())
