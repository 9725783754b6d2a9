"""Hooks."""

from kdvit_mm.engine.hooks.auto_loss_weight_hook import AutoLossWeightHook
from kdvit_mm.engine.hooks.distill_schedule_hook import (
    DistillationLossDetachHook,
    DistillScheduleHook,
)
from kdvit_mm.engine.hooks.distill_watch_hook import DistillWatchHook
from kdvit_mm.engine.hooks.ema_teacher_hook import EMATeacherHook
from kdvit_mm.engine.hooks.epoch_seed_hook import EpochSeedHook
from kdvit_mm.engine.hooks.knowledge_condensation_hook import (
    KnowledgeCondensationHook,
)

__all__ = [
    'AutoLossWeightHook',
    'DistillScheduleHook',
    'DistillWatchHook',
    'DistillationLossDetachHook',
    'EMATeacherHook',
    'EpochSeedHook',
    'KnowledgeCondensationHook',
]
