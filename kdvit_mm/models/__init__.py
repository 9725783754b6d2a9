"""Algorithms, distill losses, connectors and recorders."""

from kdvit_mm.models import algorithms

__all__ = ['algorithms']
