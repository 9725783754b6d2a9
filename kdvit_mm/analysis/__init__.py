"""Looks into configs, models and runs; nothing here is used in training."""

from kdvit_mm.analysis.doctor import Findings, diagnose

__all__ = ['Findings', 'diagnose']
