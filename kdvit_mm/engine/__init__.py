"""Hooks, optimisers, and chains of trainings."""

from kdvit_mm.engine import hooks, optim, stages

__all__ = ['hooks', 'optim', 'stages']
