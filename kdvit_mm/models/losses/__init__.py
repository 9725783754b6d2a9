"""Distill losses, one method per file, sorted by what they compare.

``response``: class scores and boxes; ``feature``: maps; ``relation``:
relations between samples or classes; ``wrappers``: losses around other losses.
All modules are imported, so that a new method is one new file.
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
