# Copyright (c) kdvit_mm contributors. All rights reserved.
"""Data sets, samplers and transforms."""

from importlib.util import find_spec

from .condensed_sampler import CondensedSampler
from .digit_scenes import (
    DigitSceneParams,
    make_digit_scenes,
    require_digit_scenes,
)
from .mix_dropped import MixDropped
from .teacher_views import TeacherViews

__all__ = [
    'CondensedSampler',
    'DigitSceneParams',
    'MixDropped',
    'TeacherViews',
    'make_digit_scenes',
    'require_digit_scenes',
]

# A missing task package takes away its own class only.
if find_spec('mmdet'):
    from .digit_detection import DigitDetection

    __all__ += ['DigitDetection']
if find_spec('mmseg'):
    from .digit_segmentation import DigitSegmentation

    __all__ += ['DigitSegmentation']
if find_spec('mmpretrain'):
    from .digit_classification import DigitClassification

    __all__ += ['DigitClassification']
