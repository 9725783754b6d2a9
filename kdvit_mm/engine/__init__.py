"""Hooks of the training loop."""

from kdvit_mm.engine import hooks

__all__ = ['hooks']
