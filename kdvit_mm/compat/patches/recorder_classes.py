"""Recorders and deliveries can be given by their class.

Breaks: ``type=ModuleOutputsRecorder`` in a new-style config stops with
"unsupported operand type(s) for +: 'type' and 'str'", its dotted name in a
dumped config with "...RecorderRecorder": mmrazor appends "Recorder" or
"Delivery" to the type.
Since: mmrazor 1.0.0rc0; new-style configs came with mmengine 0.8.
Can go: when mmrazor takes classes.
"""

import functools
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Always: the behaviour is the same with every torch."""
    return True


def apply(module: ModuleType) -> None:
    """Wraps the manager of recorders or of deliveries."""
    if hasattr(module, 'RecorderManager'):
        _patch(module.RecorderManager, 'Recorder')
    else:
        _patch(module.DistillDeliveryManager, 'Delivery')  # type: ignore[attr-defined]


def _patch(manager: Any, ending: str) -> None:
    init = manager.__init__

    @functools.wraps(init)
    def init_named(self: Any, configs: dict | None = None) -> None:
        named = {
            name: type(cfg)(cfg, type=_short_type(cfg.get('type', ''), ending))
            for name, cfg in (configs or {}).items()
        }
        init(self, named)

    manager.__init__ = init_named


def _short_type(kind: Any, ending: str) -> Any:
    """Names a recorder or delivery as mmrazor expects it."""
    if isinstance(kind, type):
        kind = f'{kind.__module__}.{kind.__qualname__}'
    if ending == 'Delivery':  # mmrazor knows two, by their bare names
        kind = kind.rpartition('.')[2]
    return kind.removesuffix(ending)
