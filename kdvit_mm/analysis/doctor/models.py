"""Runs a model on a batch and describes it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdvit_mm.analysis.doctor.findings import ModelInfo, ModuleInfo
from kdvit_mm.models.utils.eval_mode import eval_mode
from kdvit_mm.models.utils.explain import describe


@contextmanager
def watched_modules(
    model: nn.Module, depth: int
) -> Iterator[list[ModuleInfo]]:
    """Notes the output shapes of a model's modules while inside.

    Args:
        model (nn.Module): The model.
        depth (int): Levels of nested modules to watch.

    Yields:
        list[ModuleInfo]: The modules, filled in as they run.
    """
    infos, handles = [], []

    def watch(module: nn.Module, info: ModuleInfo) -> None:
        def note(module: nn.Module, inputs: Any, outputs: Any) -> None:
            info.calls += 1
            info.shape = info.shape or describe(outputs)

        handles.append(module.register_forward_hook(note))

    for name, module in model.named_modules():
        if name and name.count('.') < depth:
            info = ModuleInfo(name, type(module).__name__, _params(module))
            infos.append(info)
            watch(module, info)
    try:
        yield infos
    finally:
        for handle in handles:
            handle.remove()


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def describe_model(
    model: BaseModel, data: dict[str, Any], modules: list[ModuleInfo]
) -> ModelInfo:
    """Describes a model after a forward.

    Args:
        model (BaseModel): The model.
        data (dict[str, Any]): The batch, with inputs of shape (N, C, H, W).
        modules (list[ModuleInfo]): What :func:`watched_modules` noted.

    Returns:
        ModelInfo: The description.
    """
    return ModelInfo(
        type=type(model).__name__,
        params=_params(model),
        flops=count_flops(model, data),
        image=tuple(getattr(data['inputs'], 'shape', ())[1:]),
        modules=[info for info in modules if info.calls or info.params],
    )


def count_flops(model: BaseModel, data: dict[str, Any]) -> float | None:
    """Counts the multiply-adds of convolutions and matrix products.

    mmdet, mmseg and mmpretrain call these FLOPs. Operators of mmcv, such as
    deformable convolutions, are not counted.

    Args:
        model (BaseModel): The model.
        data (dict[str, Any]): A batch, with inputs of shape (N, C, H, W).

    Returns:
        float | None: The count for one image, or None if the model has no
        plain forward.
    """
    one = {key: value[:1] for key, value in copy.deepcopy(data).items()}
    counter = FlopCounterMode(display=False)
    try:
        with eval_mode(model), torch.no_grad(), counter:
            model(**one, mode='tensor')
    except Exception:
        return None
    return counter.get_total_flops() / 2
