"""Hooks."""

from kdvit_mm.engine.hooks.distill_schedule_hook import (
    DistillationLossDetachHook,
    DistillScheduleHook,
)
from kdvit_mm.engine.hooks.distill_watch_hook import DistillWatchHook
from kdvit_mm.engine.hooks.ema_teacher_hook import EMATeacherHook
from kdvit_mm.engine.hooks.epoch_seed_hook import EpochSeedHook
from kdvit_mm.engine.hooks.level_selection_hook import LevelSelectionHook

__all__ = [
    'DistillScheduleHook',
    'DistillWatchHook',
    'DistillationLossDetachHook',
    'EMATeacherHook',
    'EpochSeedHook',
    'LevelSelectionHook',
]
