"""Algorithms, distill losses, connectors, recorders, selectors, backbones."""

from kdvit_mm.models import (
    algorithms,
    backbones,
    connectors,
    losses,
    recorders,
    selectors,
)

__all__ = [
    'algorithms',
    'backbones',
    'connectors',
    'losses',
    'recorders',
    'selectors',
]
