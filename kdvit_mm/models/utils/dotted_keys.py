"""Values of a config by the keys that ``--cfg-options`` takes."""

from collections.abc import Iterator
from typing import Any


def replace_prefix(content: Any, old: str, new: str) -> dict[str, str]:
    """Finds the texts that begin in one way and lets them begin in another.

    Args:
        content (Any): Dictionaries and lists, such as ``cfg.to_dict()``.
        old (str): What the texts begin with.
        new (str): What they are to begin with.

    Returns:
        dict[str, str]: The changed texts by dotted keys.
    """
    return dict(_replaced('', content, old, new))


def _replaced(
    key: str, value: Any, old: str, new: str
) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value.startswith(old):
        yield key[1:], new + value[len(old) :]
    if isinstance(value, list):
        value = dict(enumerate(value))
    for name, child in value.items() if isinstance(value, dict) else ():
        yield from _replaced(f'{key}.{name}', child, old, new)
