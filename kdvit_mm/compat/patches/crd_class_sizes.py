"""CRDDataset takes classes with different numbers of images.

Breaks: mmrazor puts the image indices of all classes into one array. Where
classes differ in size, as in most data sets but CIFAR, NumPy refuses: "setting
an array element with a sequence. The requested array has an inhomogeneous
shape".
Since: NumPy 1.24. Upstream: ``CRDDataset._parse_fullset_contrast_info`` at
mmrazor 1.0.0.
Can go: when mmrazor keeps the indices in a list.
"""

from types import ModuleType
from typing import Any

import numpy as np
from packaging.version import Version


def needed() -> bool:
    """Whether NumPy refuses arrays of rows that differ in length."""
    return Version(np.__version__) >= Version('1.24')


def apply(module: ModuleType) -> None:
    """Replaces the module's own ``np``; NumPy itself stays as it is."""
    module.np = _NumpyWithRaggedRows('numpy')  # type: ignore[attr-defined]


class _NumpyWithRaggedRows(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def asarray(rows: Any) -> np.ndarray:
        """Keeps rows of different lengths as arrays of their own."""
        try:
            return np.asarray(rows)
        except ValueError:
            return np.asarray(rows, object)
