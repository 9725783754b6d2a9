"""mmrazor imports although torch.ao lost what its quantisation needs.

Breaks: ``import mmrazor.models`` ends in "`torch>=1.13` is not installed
properly", because ``reverse2``, ``reverse3`` and
``reverse_sequential_wrapper2`` are gone from
``torch.ao.quantization.fuser_method_mappings``.
Since: torch 2.0. Upstream: open-mmlab/mmrazor issues 632, 652, 548.
Can go: when mmrazor is released without these imports.

The names come back as stand-ins and the four backend configs, which mmrazor
builds while it is imported, are left out. mmrazor's quantisation itself was
written for the reversed fusion patterns of torch 1.13 and cannot work, so
building a quantizer or using a backend config raises.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

_NAMES = ('reverse2', 'reverse3', 'reverse_sequential_wrapper2')


def _fusers() -> ModuleType:
    return importlib.import_module(
        'torch.ao.quantization.fuser_method_mappings'
    )


def needed() -> bool:
    """Whether torch lacks the names, which our own stand-ins do not hide."""
    return any(
        getattr(_fusers(), name, _refuse) in (_refuse, _reverse)
        for name in _NAMES
    )


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    import torch

    raise RuntimeError(
        "mmrazor 1.0.0's quantisation cannot work on torch "
        f'{torch.__version__}: it needs the fusion patterns that torch.ao '
        'removed in 2.0. Distillation and pruning are not affected. '
        'For quantisation use torch 1.13 with mmrazor, or torchao.'
    )


def _reverse(fuser: Callable) -> Callable:
    return _refuse


class _Unusable:
    def __getattr__(self, name: str) -> NoReturn:
        _refuse()


def apply(module: ModuleType) -> None:
    """Adds the names, empties a backend config or stops the quantizers."""
    if module.__name__ == 'mmrazor':
        for name in _NAMES:
            setattr(_fusers(), name, _reverse)
    elif hasattr(module, 'BaseQuantizer'):
        module.BaseQuantizer.__init__ = _refuse
    else:
        backend = module.__name__.rpartition('.')[2]
        setattr(module, f'get_{backend}_backend_config', _Unusable)
