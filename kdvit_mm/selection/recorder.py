"""Records the pyramid whose levels are chosen for distillation."""

from collections.abc import Sequence
from typing import Any

import torch
from mmrazor.models.task_modules.recorder.module_outputs_recorder import (
    ModuleOutputsRecorder,
)
from torch import nn

from kdvit_mm.registry import TASK_UTILS


class Pyramid(tuple):
    """The maps of a pyramid as they are distilled.

    Attributes:
        used (list[torch.Tensor]): The same maps as the head uses them. A
            gradient at one of these is that of the task alone, at one of the
            tuple's that of the distillation.
    """

    used: list[torch.Tensor]


@TASK_UTILS.register_module()
class FPNLevelSelectionRecorder(ModuleOutputsRecorder):
    """Records the levels of a pyramid that may be distilled.

    In a config it is ``dict(type='FPNLevelSelection', source='neck')``. One on
    the student's neck and one on the teacher's feed
    :class:`SelectedLevelsLoss`, which takes the decision and applies it to
    both.

    Args:
        source (str): Name of the neck, a module that returns one map per
            level.
        levels (Sequence[int] | None): Indices of the candidate levels in what
            the neck returns, 0 being the finest. Defaults to None, all.
    """

    def __init__(
        self, source: str, levels: Sequence[int] | None = None
    ) -> None:
        super().__init__(source)
        self.levels = None if levels is None else list(levels)

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: Any
    ) -> Any:
        """Saves the candidate levels of the neck's output.

        Args:
            module (nn.Module): The neck.
            inputs (tuple): Its inputs.
            outputs (Any): Its outputs.

        Returns:
            Any: The outputs for the head, views of the same maps; None while
            it does not record.

        Raises:
            ValueError: If the neck returns no pyramid, or one without a level
                that ``levels`` names.
        """
        if not self.recording:
            return None
        is_pyramid = isinstance(outputs, list | tuple) and all(
            isinstance(x, torch.Tensor) and x.dim() == 4 for x in outputs
        )
        if not is_pyramid or len(outputs) < 2:
            raise ValueError(
                f'FPNLevelSelection: source "{self.source}" '
                f'({type(module).__name__}) returns no pyramid of two maps or '
                'more, so there are no levels to choose from. Set source to '
                'the module that does, such as "neck".'
            )
        levels = range(len(outputs)) if self.levels is None else self.levels
        missing = [i for i in levels if not 0 <= i < len(outputs)]
        if missing:
            raise ValueError(
                f'FPNLevelSelection: levels={self.levels} names {missing}, '
                f'but "{self.source}" returns {len(outputs)} levels, 0 to '
                f'{len(outputs) - 1}.'
            )
        used = [x.view_as(x) for x in outputs]
        pyramid = Pyramid(outputs[i].view_as(outputs[i]) for i in levels)
        pyramid.used = [used[i] for i in levels]
        self.data_buffer.append(pyramid)
        return tuple(used)
