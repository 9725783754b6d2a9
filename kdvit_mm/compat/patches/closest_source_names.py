"""A recorder with an unknown source names the closest modules.

Breaks: nothing; mmrazor only says '"neck.fpn" is not in the model', and
users ask what the modules are called (open-mmlab/mmrazor issues 654, 174,
191, 636).
Can go: when mmrazor's message names them.
"""

import difflib
from types import ModuleType
from typing import Any

from torch import nn


def needed() -> bool:
    """Always: the message is the same with every torch."""
    return True


def apply(module: ModuleType) -> None:
    """Wraps the look-up of the recorded module."""
    recorder = module.ModuleOutputsRecorder  # type: ignore[attr-defined]
    prepare = recorder.prepare_from_model

    def prepare_from_model(self: Any, model: nn.Module | None = None) -> None:
        names = [] if model is None else [n for n, _ in model.named_modules()]
        if model is not None and self.source not in names:
            close = difflib.get_close_matches(self.source, names, 5, 0.3)
            children = [name for name, _ in model.named_children()]
            raise AssertionError(
                f'"{self.source}" is not in the model, {type(model).__name__}'
                f'. Closest: {", ".join(close) or "none"}. Top level: '
                f'{", ".join(children)}. Set the key "source" of the '
                'recorder to one of its module names; '
                'tools/analysis/doctor.py lists them with their shapes.'
            )
        prepare(self, model)

    recorder.prepare_from_model = prepare_from_model
