"""Algorithms, distill losses and connectors."""

from kdvit_mm.models import algorithms, connectors, losses

__all__ = ['algorithms', 'connectors', 'losses']
