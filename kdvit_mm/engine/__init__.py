"""Hooks of the training loop, and chains of trainings."""

from kdvit_mm.engine import hooks, stages

__all__ = ['hooks', 'stages']
