"""Optimisers and their wrappers."""

from kdvit_mm.engine.optim.dot import DOT
from kdvit_mm.engine.optim.dot_optim_wrapper import (
    DOTAmpOptimWrapper,
    DOTOptimWrapper,
)

__all__ = ['DOT', 'DOTAmpOptimWrapper', 'DOTOptimWrapper']
