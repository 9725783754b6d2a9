"""Hooks, loops and optimisers of trainings, and chains of trainings."""

from kdvit_mm.engine import hooks, loops, optim, stages

__all__ = ['hooks', 'loops', 'optim', 'stages']
