"""Algorithms: a student, a teacher and a distiller."""

from kdvit_mm.models.algorithms.freekd_prompt_learning import (
    FreeKDPromptLearning,
)
from kdvit_mm.models.algorithms.lean_teacher_distill import LeanTeacherDistill

__all__ = ['FreeKDPromptLearning', 'LeanTeacherDistill']
