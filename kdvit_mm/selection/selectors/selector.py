"""What chooses the pyramid levels that an image is distilled on."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.model import BaseModule

from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.random import mixed_seed
from kdvit_mm.selection.plan import Plan, State

#: Weight of the newest loss in a level's running mean.
LOSS_MOMENTUM = 0.02


class LevelSelector(BaseModule):
    """Base of the selectors.

    A subclass chooses in :meth:`choose`. All random numbers come from a CPU
    generator that is seeded again at each step from ``seed``, rank and a
    counter in the state dict: they are the same on any device and after a
    resume, others on each rank, and leave the global streams alone. In eval
    mode nothing is kept or counted, and what learns does not explore: it
    takes what it considers best.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): What the cost of all levels is worth, in
            deviations of a level's quality. Defaults to 0.0.
        seed (int | None): Seed of draws and initial weights. Defaults to
            None, the run's.
        init_cfg (dict | None): Where the weights come from, such as
            ``dict(type='Pretrained', checkpoint='epoch_12.pth',
            prefix='distiller.…')`` for a selector trained earlier. Defaults
            to None.

    Raises:
        ValueError: If ``num_levels`` is below 1 or ``lambda_cost`` below 0;
            on loading, if the checkpoint's selector is another.
    """

    #: Whether ``learn`` is to be called every some iterations.
    learns: bool = False

    step: torch.Tensor
    running_losses: torch.Tensor

    def __init__(
        self,
        num_levels: int,
        lambda_cost: float = 0.0,
        seed: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        if num_levels < 1:
            raise ValueError(
                f'{name}: num_levels={num_levels}, but a pyramid has at '
                'least one level.'
            )
        if not lambda_cost >= 0:
            raise ValueError(
                f'{name}: lambda_cost={lambda_cost} would reward cost. Set '
                'it to 0 or more.'
            )
        self.num_levels = num_levels
        self.lambda_cost = lambda_cost
        self.seed = (torch.initial_seed() if seed is None else seed) % 2**63
        self.register_buffer('step', torch.zeros((), dtype=torch.long))
        self.register_buffer(
            'running_losses', torch.full((num_levels,), torch.nan)
        )

    def plan(self, state: State) -> Plan:
        """Chooses the levels of a batch of images.

        Args:
            state (State): What is known of the batch.

        Returns:
            Plan: The chosen levels.

        Raises:
            ValueError: If a pyramid is not ``num_levels`` maps of N images,
                or there is not one cost per level.
        """
        number = len(state.student[0])
        self._check_pyramid('student', state.student, number)
        self._check_pyramid('teacher', state.teacher, number)
        if state.costs.shape != (self.num_levels,):
            raise ValueError(
                f'{type(self).__name__}: costs has the shape '
                f'{tuple(state.costs.shape)} instead of ({self.num_levels},).'
            )
        if self.training:
            self.step += 1
        device = state.student[0].device
        costs = state.costs.to(device).float()
        with torch.autocast(device.type, enabled=False):
            return self.choose(replace(state, costs=costs))

    @abstractmethod
    def choose(self, state: State) -> Plan:
        """Chooses; :meth:`plan` has checked the state."""

    def observe(self, quality: torch.Tensor, valid: torch.Tensor) -> None:
        """Takes what the levels of the last plan were worth.

        Args:
            quality (torch.Tensor): Benefit of each level, of shape (N, L);
                NaN where it is not known.
            valid (torch.Tensor): Whether to learn from the image, booleans
                of shape (N,).
        """

    @torch.no_grad()
    def observe_losses(self, losses: torch.Tensor) -> None:
        """Takes the distill losses of an iteration into the running means.

        All ranks have to call it, as the means are those of all ranks.

        Args:
            losses (torch.Tensor): Loss of each level, of shape (L,); NaN
                where it was not computed.
        """
        losses = mean_over_ranks(losses.to(self.running_losses))
        move_mean(self.running_losses, losses, LOSS_MOMENTUM)

    def learn(self) -> dict[str, float]:
        """Makes one update from what was observed since the last.

        All ranks have to call it.

        Returns:
            dict[str, float]: Diagnostics; empty if there was nothing to learn
            from.
        """
        return {}

    def extra_state(self) -> dict[str, Any]:
        """What a resume needs besides the state dict, as plain data."""
        return {'seed': self.seed}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`extra_state` gave.

        Args:
            state (dict): The state.
        """
        self.seed = state['seed']

    def _draws(self) -> torch.Generator:
        """Generator of this step's and rank's random numbers."""
        return seeded_generator(0, self.seed, get_rank(), int(self.step))

    def _check_pyramid(
        self, side: str, maps: Sequence[torch.Tensor], batch: int
    ) -> None:
        if not isinstance(maps, (list, tuple)):
            raise ValueError(
                f'{type(self).__name__}: the {side} has one map of shape '
                f'{describe(maps)} instead of {self.num_levels} levels. '
                'Record a module that returns a pyramid, such as an FPN.'
            )
        if len(maps) != self.num_levels or any(
            not isinstance(level, torch.Tensor)
            or level.dim() != 4
            or len(level) != batch
            for level in maps
        ):
            raise ValueError(
                f'{type(self).__name__}: num_levels={self.num_levels} and '
                f'{batch} images, but the {side} has {len(maps)} levels of '
                f'the shapes {describe(maps)}. Set num_levels to what both '
                'necks return.'
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        # mmengine only warns of keys that are missing or have other shapes.
        wrong = [
            f'{key}: {describe(state_dict.get(prefix + key))} instead of '
            f'{describe(tensor)}'
            for key, tensor in self.state_dict().items()
            if describe(state_dict.get(prefix + key)) != describe(tensor)
        ]
        if wrong and any(key.startswith(prefix) for key in state_dict):
            more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
            raise ValueError(
                f"{type(self).__name__}: the checkpoint's selector is not of "
                f'the {self.num_levels} levels and the options that the '
                f'config says: "{prefix}" has {"; ".join(wrong[:3])}{more}. '
                'Set the config to what it was trained with, or '
                'init_cfg.prefix to its place in the checkpoint.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose draws depend on all numbers of ``key``."""
    return torch.Generator().manual_seed(mixed_seed(*key))


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Mean of what is finite on the ranks; NaN where it is on none.

    Args:
        values (torch.Tensor): This rank's values of levels, of shape (L,), or
            of images and levels, of shape (N, L).

    Returns:
        torch.Tensor: The levels' means, of shape (L,), equal on all ranks.
    """
    values = values.reshape(-1, values.size(-1))
    known = values.isfinite()
    sums = torch.stack([values.where(known, 0).sum(0), known.sum(0)])
    all_reduce(sums)
    return sums[0] / sums[1]


def move_mean(
    mean: torch.Tensor, newest: torch.Tensor, momentum: float
) -> None:
    """Moves running means, which start with the first value that is finite.

    Args:
        mean (torch.Tensor): The means, NaN where there is none yet.
        newest (torch.Tensor): What is new, of the same shape; what is not
            finite is passed over.
        momentum (float): Its weight.
    """
    old = torch.where(mean.isnan(), newest, mean)
    moved = torch.lerp(old, newest, momentum)
    mean.copy_(torch.where(newest.isfinite(), moved, mean))


def nonempty_sets(num_levels: int) -> torch.Tensor:
    """All choices of at least one level.

    Args:
        num_levels (int): Number of levels, L.

    Returns:
        torch.Tensor: Booleans of shape (2 ** L - 1, L).
    """
    code = torch.arange(1, 2**num_levels)[:, None]
    return code.bitwise_and(2 ** torch.arange(num_levels)) > 0
