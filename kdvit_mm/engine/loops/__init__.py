"""Loops."""

from kdvit_mm.engine.loops.student_search_loop import StudentSearchLoop

__all__ = ['StudentSearchLoop']
