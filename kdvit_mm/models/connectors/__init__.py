"""Connectors, one method per file.

All modules are imported, so that a new connector is one new file.
"""

from typing import Any

from kdvit_mm.models.utils.discovery import public_classes

_CLASSES = public_classes(__name__)
__all__ = sorted(_CLASSES)


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return _CLASSES[name]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__
