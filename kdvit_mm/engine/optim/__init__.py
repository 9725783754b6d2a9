"""Optimisers' wrappers and their constructors."""

from kdvit_mm.engine.optim.each_student import (
    EachStudentConstructor,
    JointOptimWrapper,
)

__all__ = ['EachStudentConstructor', 'JointOptimWrapper']
