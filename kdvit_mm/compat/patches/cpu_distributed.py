"""Distributed training starts on machines without a GPU.

Breaks: ``torch.cuda.set_device`` raises "Found no NVIDIA driver" in
``mmengine.dist`` even with the gloo backend, NCCL is the default backend, and
the runner hands CUDA ``device_ids`` to DistributedDataParallel.
Since: mmengine 0.1. Upstream: open-mmlab/mmengine ``dist/utils.py`` and
``Runner.wrap_model`` at 0.10.7.
Can go: when mmengine asks for a device before it sets one.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Whether there is no CUDA device here."""
    import torch

    return not torch.cuda.is_available()


def apply(module: ModuleType) -> None:
    """Wraps the start of the process group and the model wrapper."""
    if module.__name__ == 'mmengine.dist.utils':
        _patch_init_dist(module)
    else:
        _patch_wrap_model(module.Runner)  # type: ignore[attr-defined]


def _patch_init_dist(module: Any) -> None:
    # Runner holds a reference to init_dist itself, so its parts are wrapped.
    for launcher in ('pytorch', 'mpi', 'slurm'):
        name = f'_init_dist_{launcher}'
        setattr(module, name, _on_cpu(getattr(module, name), module))


def _on_cpu(init_dist: Callable[..., None], module: Any) -> Callable:
    @functools.wraps(init_dist)
    def init_dist_on_cpu(backend: str, **kwargs: Any) -> None:
        from mmengine.logging import print_log

        if backend == 'nccl':
            print_log('no GPU here: using the gloo backend instead of nccl')
            backend = 'gloo'
        with _without_set_device(module.torch.cuda):
            init_dist(backend, **kwargs)

    return init_dist_on_cpu


@contextmanager
def _without_set_device(cuda: Any) -> Iterator[None]:
    set_device = cuda.set_device
    cuda.set_device = lambda device: None
    try:
        yield
    finally:
        cuda.set_device = set_device


def _patch_wrap_model(runner_class: Any) -> None:
    wrap_model = runner_class.wrap_model

    @functools.wraps(wrap_model)
    def wrap_model_on_cpu(
        self: Any, model_wrapper_cfg: dict | None, model: Any
    ) -> Any:
        if self.distributed and model_wrapper_cfg is None:
            # What Runner.wrap_model does by default, without the device.
            model_wrapper_cfg = {
                'type': 'MMDistributedDataParallel',
                'broadcast_buffers': False,
                'find_unused_parameters': self.cfg.get(
                    'find_unused_parameters', False
                ),
            }
        if model_wrapper_cfg is not None:
            model_wrapper_cfg = dict(model_wrapper_cfg, device_ids=None)
        return wrap_model(self, model_wrapper_cfg, model)

    runner_class.wrap_model = wrap_model_on_cpu
