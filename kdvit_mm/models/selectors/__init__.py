"""Selectors, which choose the pyramid levels of each image."""

from kdvit_mm.models.selectors.gated import GatedLevels
from kdvit_mm.models.selectors.grad_norm import GradNorm
from kdvit_mm.models.selectors.greedy import GreedyLevels
from kdvit_mm.models.selectors.learning import LearningSelector
from kdvit_mm.models.selectors.ppo import PPOLevels
from kdvit_mm.models.selectors.quality import (
    AlignedQuality,
    InfluenceQuality,
    MeasuredQuality,
)
from kdvit_mm.models.selectors.regressed import RegressedLevels
from kdvit_mm.models.selectors.selector import LevelSelector, Selection
from kdvit_mm.models.selectors.state import (
    NUM_STATISTICS,
    PyramidState,
    level_statistics,
)
from kdvit_mm.models.selectors.unlearned import (
    AllLevels,
    FixedLevels,
    RandomLevels,
)

__all__ = [
    'NUM_STATISTICS',
    'AlignedQuality',
    'AllLevels',
    'FixedLevels',
    'GatedLevels',
    'GradNorm',
    'GreedyLevels',
    'InfluenceQuality',
    'LearningSelector',
    'LevelSelector',
    'MeasuredQuality',
    'PPOLevels',
    'PyramidState',
    'RandomLevels',
    'RegressedLevels',
    'Selection',
    'level_statistics',
]
