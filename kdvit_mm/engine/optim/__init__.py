"""Optimisers, their wrappers and the constructors of these."""

from kdvit_mm.engine.optim.dot import DOT
from kdvit_mm.engine.optim.dot_optim_wrapper import (
    DOTAmpOptimWrapper,
    DOTOptimWrapper,
)
from kdvit_mm.engine.optim.each_student import (
    EachStudentConstructor,
    JointOptimWrapper,
)

__all__ = [
    'DOT',
    'DOTAmpOptimWrapper',
    'DOTOptimWrapper',
    'EachStudentConstructor',
    'JointOptimWrapper',
]
