"""``mim`` finds packages that were installed with ``pip install -e``.

Breaks: ``mim train kdvit_mm CONFIG`` cannot find the configs of an editable
installation: it looks for the package beside its metadata, which PEP 660
puts into site-packages while the code stays in the checkout.
Since: pip 21.3 / setuptools 64. Upstream: open-mmlab/mim ``mim/utils``.
Can go: when mim asks importlib for the package's folder.
"""

import functools
import importlib.util
import os
from types import ModuleType


def needed() -> bool:
    """Always: a later installation may be editable."""
    return True


def apply(module: ModuleType) -> None:
    """Falls back on the import system where mim's folder does not exist."""
    get_installed_path = module.get_installed_path  # type: ignore[attr-defined]

    @functools.wraps(get_installed_path)
    def get_real_path(package: str) -> str:
        path: str = get_installed_path(package)
        if not os.path.exists(path):
            spec = importlib.util.find_spec(os.path.basename(path))
            if spec is not None and spec.submodule_search_locations:
                path = spec.submodule_search_locations[0]
        return path

    module.get_installed_path = get_real_path  # type: ignore[attr-defined]
