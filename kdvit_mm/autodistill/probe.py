"""What the modules of a model return on one small batch."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from kdvit_mm.analysis.configs import ConfigError, explained

# Modes of a model's forward, in the order in which they are tried.
MODES = ('loss', 'tensor', 'predict')
# What the base classes of a package's models are for.
TASKS = {
    'mmdet': 'Detection',
    'mmseg': 'Segmentation',
    'mmpretrain': 'Classification',
}


@dataclass
class Probe:
    """A model and the shapes of what its modules return.

    Attributes:
        side (str): 'student' or 'teacher'.
        config (ConfigDict): Config of the model.
        model (nn.Module): The model.
        outputs (dict[str, Any]): By names of the modules that were called, in
            the order in which they ended: a shape, a list of what a tuple or
            list holds, or None for anything else.
        size (tuple[int, int]): Height and width of the images.
    """

    side: str
    config: ConfigDict
    model: nn.Module
    outputs: dict[str, Any]
    size: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        """Class of the model."""
        return type(self.model).__name__

    @property
    def task(self) -> str | None:
        """What the model is for, one of the catalogue's tasks."""
        packages = [c.__module__.partition('.')[0] for c in self._classes]
        return next((TASKS[p] for p in packages if p in TASKS), None)

    @property
    def _classes(self) -> tuple[type, ...]:
        return type(self.model).__mro__

    def kind_of(self, name: str) -> str:
        """Class of one of the model's modules."""
        return type(self.model.get_submodule(name)).__name__


def build_probe(side: str, config: ConfigDict) -> Probe:
    """Builds a model, without its weights.

    Args:
        side (str): 'student' or 'teacher'.
        config (ConfigDict): Config of the model, in its own scope.

    Returns:
        Probe: The model, which has not run yet.

    Raises:
        ConfigError: If it cannot be built.
    """
    with explained(f'The {side} cannot be built'):
        return Probe(side, config, MODELS.build(copy.deepcopy(config)), {})


def run_probe(probe: Probe, data: dict[str, Any]) -> None:
    """Runs a model as far as it comes and notes what its modules return.

    Args:
        probe (Probe): Receives ``outputs`` and ``size``.
        data (dict[str, Any]): A preprocessed batch, with inputs of shape
            (N, C, H, W).

    Raises:
        ConfigError: If not even a first module returns.
    """
    probe.size = tuple(data['inputs'].shape[-2:])
    problems = []
    with _noting_shapes(probe), torch.no_grad():
        for mode in MODES:
            try:
                # Some heads write into the ground truth.
                probe.model(**copy.deepcopy(data), mode=mode)
                return
            except Exception as error:
                # A head that fails leaves the records of what is before it.
                problems.append(f'mode "{mode}": {error}')
    if not probe.outputs:
        raise ConfigError(
            f'The {probe.side} ({probe.kind}) does not run on a batch of '
            "the student's data.\n" + '\n'.join(problems)
        )


@contextmanager
def _noting_shapes(probe: Probe) -> Iterator[None]:
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def note(module: nn.Module, inputs: Any, outputs: Any) -> None:
            probe.outputs.setdefault(name, shapes_of(outputs))

        handles.append(module.register_forward_hook(note))

    for name, module in probe.model.named_modules():
        if name:
            watch(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def shapes_of(outputs: Any) -> Any:
    """Replaces the tensors in nested tuples and lists with their shapes."""
    if isinstance(outputs, torch.Tensor):
        return tuple(outputs.shape)
    if isinstance(outputs, (list, tuple)):
        return [shapes_of(output) for output in outputs]
    return None


def is_pyramid(shapes: Any) -> bool:
    """Whether shapes are those of a tuple or list of maps."""
    return (
        isinstance(shapes, list)
        and bool(shapes)
        and all(isinstance(s, tuple) and len(s) == 4 for s in shapes)
    )
