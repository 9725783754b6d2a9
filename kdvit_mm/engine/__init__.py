"""Hooks, loops and optimisers of training, and chains of trainings."""

from kdvit_mm.engine import hooks, loops, optim, stages

__all__ = ['hooks', 'loops', 'optim', 'stages']
