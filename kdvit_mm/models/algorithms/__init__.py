"""Algorithms: a student, a teacher and a distiller."""

from kdvit_mm.models.algorithms.diswot import DisWOT
from kdvit_mm.models.algorithms.freekd_prompt_learning import (
    FreeKDPromptLearning,
)
from kdvit_mm.models.algorithms.lean_teacher_distill import LeanTeacherDistill
from kdvit_mm.models.algorithms.sskd_head_learning import SSKDHeadLearning

__all__ = [
    'DisWOT',
    'FreeKDPromptLearning',
    'LeanTeacherDistill',
    'SSKDHeadLearning',
]
