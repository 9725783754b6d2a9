"""Connectors, one method a file; a file in this folder is imported by itself.

What it registers can be imported from here.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from kdvit_mm.registry import MODELS

for _module in iter_modules(__path__, f'{__name__}.'):
    import_module(_module.name)


def __getattr__(name: str) -> Any:
    """Finds a connector by its name."""
    found = MODELS.module_dict.get(name)
    if found is None or not found.__module__.startswith(f'{__name__}.'):
        raise AttributeError(f'{__name__} has no connector {name}')
    return found
