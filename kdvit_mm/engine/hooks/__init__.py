"""Hooks."""

from kdvit_mm.engine.hooks.distillation_loss_detach_hook import (
    DistillationLossDetachHook,
)
from kdvit_mm.engine.hooks.epoch_seed_hook import EpochSeedHook

__all__ = ['DistillationLossDetachHook', 'EpochSeedHook']
