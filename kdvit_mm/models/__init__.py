"""Algorithms, distill losses, connectors, recorders, selectors and others."""

from kdvit_mm.models import (
    algorithms,
    backbones,
    connectors,
    data_preprocessors,
    losses,
    recorders,
    selectors,
)

__all__ = [
    'algorithms',
    'backbones',
    'connectors',
    'data_preprocessors',
    'losses',
    'recorders',
    'selectors',
]
