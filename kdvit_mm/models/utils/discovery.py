"""Finds a package's classes without a list of its modules."""

import importlib
import inspect
import pkgutil


def public_classes(package: str) -> dict[str, type]:
    """Imports all modules of a package, which registers their classes.

    Args:
        package (str): Dotted name of the package, which is being imported.

    Returns:
        dict[str, type]: The public classes that its modules define, by name.
    """
    paths = importlib.import_module(package).__path__
    return {
        name: cls
        for info in pkgutil.walk_packages(paths, f'{package}.')
        for name, cls in vars(importlib.import_module(info.name)).items()
        if inspect.isclass(cls)
        and cls.__module__ == info.name
        and not name.startswith('_')
    }
