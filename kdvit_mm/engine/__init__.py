"""Hooks and loops of training, and chains of trainings."""

from kdvit_mm.engine import hooks, loops, stages

__all__ = ['hooks', 'loops', 'stages']
