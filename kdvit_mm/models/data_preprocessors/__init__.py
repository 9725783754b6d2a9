"""Data preprocessors that a method needs."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmpretrain'):
    from kdvit_mm.models.data_preprocessors.rotated_views import (
        RotatedViewsDataPreprocessor,
    )
    from kdvit_mm.models.data_preprocessors.two_view import (
        TwoViewDataPreprocessor,
    )

    __all__ += ['RotatedViewsDataPreprocessor', 'TwoViewDataPreprocessor']
