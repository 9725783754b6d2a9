"""Modules that use names which NumPy removed find them.

Breaks: ``np.float`` and ``np.int`` in mmcv's pixel_group, mmdet's YouTube-VIS
evaluation and mmrazor's predictor; ``np.in1d`` in mmpretrain's retrieval
metrics.
Since: NumPy 1.24 (aliases of builtins), 2.4 (``in1d``). Upstream: the modules
named above at mmcv 2.1.0, mmdet 3.3.0, mmpretrain 1.2.0, mmrazor 1.0.0.
Can go: when these packages are released without the names.
"""

from types import ModuleType
from typing import Any

import numpy as np

_OLD_NAMES = {'float': float, 'int': int, 'in1d': np.isin}


class _NumpyWithOldNames(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in _OLD_NAMES and name not in np.__dict__:
            return _OLD_NAMES[name]
        return getattr(np, name)


def needed() -> bool:
    """Whether the installed NumPy lacks one of the names."""
    return any(name not in np.__dict__ for name in _OLD_NAMES)


def apply(module: ModuleType) -> None:
    """Replaces the module's own ``np``; NumPy itself stays as it is."""
    module.np = _NumpyWithOldNames('numpy')  # type: ignore[attr-defined]
