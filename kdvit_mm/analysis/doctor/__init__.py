"""Examines a distillation config before it is trained."""

from kdvit_mm.analysis.configs import build_algorithm
from kdvit_mm.analysis.doctor.examination import diagnose
from kdvit_mm.analysis.doctor.findings import (
    CacheInfo,
    Findings,
    LossInfo,
    ModelInfo,
    ModuleInfo,
    RecorderInfo,
)
from kdvit_mm.analysis.doctor.losses import judge_loss
from kdvit_mm.analysis.doctor.models import count_flops, watched_modules

__all__ = [
    'CacheInfo',
    'Findings',
    'LossInfo',
    'ModelInfo',
    'ModuleInfo',
    'RecorderInfo',
    'build_algorithm',
    'count_flops',
    'diagnose',
    'judge_loss',
    'watched_modules',
]
