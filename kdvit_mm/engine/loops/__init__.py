"""Loops."""

from kdvit_mm.engine.loops.each_student_val_loop import EachStudentValLoop

__all__ = ['EachStudentValLoop']
