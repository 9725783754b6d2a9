"""Choosing what each image is distilled on; nothing else imports this."""

from kdvit_mm.selection.controller import Phase, SelectionController
from kdvit_mm.selection.grad_norm import GradNorm
from kdvit_mm.selection.hook import LevelSelectionHook
from kdvit_mm.selection.image_selectors import (
    EveryNthStep,
    ImageSelector,
    PartOfRun,
    RandomImages,
    UncertainImages,
)
from kdvit_mm.selection.level_wise import MaskedLevelWise
from kdvit_mm.selection.loss import SelectedLevelsLoss
from kdvit_mm.selection.plan import Outcome, Plan, State
from kdvit_mm.selection.ppo.ppo import (
    JointPPOLevels,
    PPOLevels,
    ReinforceLevels,
    ShuffledPPOLevels,
)
from kdvit_mm.selection.recorder import FPNLevelSelectionRecorder
from kdvit_mm.selection.rewards import AlignedReward, MeasuredReward, Reward
from kdvit_mm.selection.selective_teacher_distill import (
    SelectiveTeacherDistill,
)
from kdvit_mm.selection.selectors.gated import GatedLevels
from kdvit_mm.selection.selectors.greedy import GreedyLevels
from kdvit_mm.selection.selectors.learning import LearningSelector
from kdvit_mm.selection.selectors.regressed import RegressedLevels
from kdvit_mm.selection.selectors.selector import LevelSelector
from kdvit_mm.selection.selectors.unlearned import (
    AllLevels,
    FixedLevels,
    RandomLevels,
)

__all__ = [
    'AlignedReward',
    'AllLevels',
    'EveryNthStep',
    'FPNLevelSelectionRecorder',
    'FixedLevels',
    'GatedLevels',
    'GradNorm',
    'GreedyLevels',
    'ImageSelector',
    'JointPPOLevels',
    'LearningSelector',
    'LevelSelectionHook',
    'LevelSelector',
    'MaskedLevelWise',
    'MeasuredReward',
    'Outcome',
    'PPOLevels',
    'PartOfRun',
    'Phase',
    'Plan',
    'RandomImages',
    'RandomLevels',
    'RegressedLevels',
    'ReinforceLevels',
    'Reward',
    'SelectedLevelsLoss',
    'SelectionController',
    'SelectiveTeacherDistill',
    'ShuffledPPOLevels',
    'State',
    'UncertainImages',
]
