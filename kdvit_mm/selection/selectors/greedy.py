"""Chooses the levels whose average quality exceeds their cost."""

import torch

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.plan import Plan, State
from kdvit_mm.selection.selectors.learning import (
    LearningSelector,
    Records,
    above_price,
)
from kdvit_mm.selection.selectors.selector import move_mean

#: Weight of the newest update in a level's running mean.
MOMENTUM = 0.1


@MODELS.register_module()
class GreedyLevels(LearningSelector):
    """For every image the levels whose running mean quality pays.

    A level is taken if its mean, in deviations of all levels' quality, is
    above lambda_cost times its cost, or is not known yet, and the best one
    always. The mean of a level that is no longer taken changes only by what
    is observed of it elsewhere, such as when all levels are probed.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): As in :class:`LevelSelector`. Defaults to 0.0.
        init_cfg (dict | None): As in :class:`LevelSelector`. Defaults to
            None.
    """

    mean_quality: torch.Tensor

    def __init__(
        self,
        num_levels: int,
        lambda_cost: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_levels, lambda_cost, init_cfg=init_cfg)
        self.register_buffer(
            'mean_quality', torch.full((num_levels,), torch.nan)
        )

    def choose(self, state: State) -> Plan:
        """Chooses the levels."""
        quality = self._in_deviations(self.mean_quality)
        price = self.lambda_cost * state.costs
        levels = above_price((quality - price).nan_to_num(torch.inf))
        levels = levels.repeat(len(state.student[0]), 1)
        if self.training:
            self._keep_until_observed(
                torch.ones_like(levels[:, 0]), state.costs
            )
        return Plan.of(levels, state.costs)

    def _update(
        self, records: Records, generator: torch.Generator
    ) -> dict[str, float]:
        quality = records['quality'][records['valid']]
        move_mean(self.mean_quality, quality.nanmean(0), MOMENTUM)
        return {
            f'quality_{level}': float(value)
            for level, value in enumerate(self.mean_quality)
            if not value.isnan()
        }
