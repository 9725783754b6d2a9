"""Algorithms, backbones, connectors, losses and other parts of models."""

from kdvit_mm.models import (
    algorithms,
    backbones,
    connectors,
    data_preprocessors,
    ensembles,
    losses,
    recorders,
)

__all__ = [
    'algorithms',
    'backbones',
    'connectors',
    'data_preprocessors',
    'ensembles',
    'losses',
    'recorders',
]
