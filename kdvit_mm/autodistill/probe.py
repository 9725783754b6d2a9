"""What the modules of a model return on one small batch."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from kdvit_mm.analysis.configs import ConfigError, explained
from kdvit_mm.autodistill.shapes import is_pyramid, shapes_of, width
from kdvit_mm.models.utils.explain import classes_of

# Modes of a model's forward, in the order in which they are tried.
MODES = ('loss', 'tensor', 'predict')
# Of a ResNet.
STAGES = 4
# What others call otherwise.
CLASSIFIERS = ('decode_head.conv_seg', 'head.fc')
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
        model (BaseModel): The model.
        outputs (dict[str, Any]): By names of the modules that were called, in
            the order in which they ended: a shape, a list of what a tuple or
            list holds, or None for anything else.
        size (tuple[int, int]): Height and width of the images.
    """

    side: str
    config: ConfigDict
    model: BaseModel
    outputs: dict[str, Any]
    size: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        """Class of the model."""
        return type(self.model).__name__

    @property
    def task(self) -> str | None:
        """What the model is for, one of the catalogue's tasks."""
        classes = type(self.model).__mro__
        packages = [cls.__module__.partition('.')[0] for cls in classes]
        return next((TASKS[p] for p in packages if p in TASKS), None)


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
    """Runs a model as far as possible and notes what its modules return.

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


def locate(probe: Probe, source: str) -> tuple[str, int | None]:
    """Finds the counterpart of a module in a model.

    Args:
        probe (Probe): The model, after it has run.
        source (str): Name of the module in a method's distiller.

    Returns:
        tuple[str, int | None]: Name of a module that the model calls, and the
        index of the one map of its output, or None for all of it.

    Raises:
        ConfigError: If there is nothing of the kind.
    """
    if not source or source in probe.outputs:
        return source, None
    part, _, inner = source.partition('.')
    pyramids = [
        name
        for name, shapes in probe.outputs.items()
        if '.' not in name and 'head' not in name and is_pyramid(shapes)
    ]
    if source == 'neck' and pyramids:
        # The last one before the head.
        return pyramids[-1], None
    if part == 'backbone' and 'backbone' in pyramids:
        # Stages are counted from the last one, a ResNet's fourth.
        number = len(probe.outputs['backbone'])
        stage = int(inner[-1]) if inner[-1:].isdigit() else STAGES
        return 'backbone', min(max(number + stage - STAGES, 1), number) - 1
    if source in CLASSIFIERS:
        classifiers = [
            name
            for name, shape in probe.outputs.items()
            if name.startswith(f'{part}.')
            and isinstance(shape, tuple)
            and len(shape) > 1
            and width(shape) == classes_of(probe.model, name)
            and not [*probe.model.get_submodule(name).children()]
        ]
        if classifiers:
            return classifiers[-1], None
    raise ConfigError(
        f'It records "{source}", but the {probe.side} ({probe.kind}) calls no '
        'such module and has no counterpart of it.'
    )
