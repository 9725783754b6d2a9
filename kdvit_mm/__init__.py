"""Knowledge distillation for detectors, segmentors and classifiers.

Importing the package patches mmrazor and mmengine where the installed PyTorch
needs it (:mod:`kdvit_mm.compat`) and registers every module of the package.
"""

import os
from typing import Any

# Threads of OpenMP spin while they wait for each other. With one other busy
# process on the machine a training step takes several times as long. OpenMP
# reads the variable when torch is loaded, so this precedes all imports.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from kdvit_mm import compat

compat.install()

from kdvit_mm import datasets, engine, models, selection  # noqa: E402
from kdvit_mm.version import __version__  # noqa: E402

__all__ = [
    '__version__',
    'build_distillation',
    'compat',
    'datasets',
    'engine',
    'models',
    'selection',
]


def __getattr__(name: str) -> Any:
    # Not imported with the package, which would take longer.
    if name == 'build_distillation':
        from kdvit_mm.autodistill import build_distillation

        return build_distillation
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
