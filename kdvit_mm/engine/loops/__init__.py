"""Loops."""

from kdvit_mm.engine.loops.each_student_val_loop import EachStudentValLoop
from kdvit_mm.engine.loops.student_search_loop import StudentSearchLoop

__all__ = ['EachStudentValLoop', 'StudentSearchLoop']
