"""A checkpoint of the student alone loads into the student, and back.

Breaks: ``load_from`` a plain checkpoint loads nothing into an algorithm whose
student is ``architecture``, and a distillation checkpoint loads nothing into
the student alone; mmengine only warns that the keys do not match.
Since: mmrazor 1.0.0rc0.
Can go: when mmrazor's algorithms load such checkpoints.
"""

import functools
import logging
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Always: the behaviour is the same with every torch."""
    return True


def apply(module: ModuleType) -> None:
    """Wraps the function that all of mmengine's loading ends in."""
    load = module.load_state_dict  # type: ignore[attr-defined]

    @functools.wraps(load)
    def load_into_owner(
        model: Any, state_dict: Any, strict: bool = False, logger: Any = None
    ) -> None:
        from mmengine.logging import print_log

        from kdvit_mm.models.utils.checkpoint_kind import find_owner

        owner, state, message = find_owner(model, state_dict)
        load(owner, state, strict, logger)
        if message:
            print_log(message, logger or 'current', logging.INFO)

    module.load_state_dict = load_into_owner  # type: ignore[attr-defined]
