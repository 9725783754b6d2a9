"""Configs as a person would write them, with comments."""

import textwrap
from collections.abc import Iterator, Mapping
from keyword import iskeyword
from typing import Any

WIDTH = 79


class Expression(str):
    """Text that stands in a config as it is, such as ``_base_.model``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def format_config(
    values: Mapping[str, Any], comments: Mapping[tuple[str, ...], str]
) -> str:
    """Writes assignments of a config file.

    Args:
        values (Mapping[str, Any]): Top-level variables.
        comments (Mapping[tuple[str, ...], str]): Comments by the keys that
            lead to what they are about.

    Returns:
        str: The text.
    """
    lines: list[str] = []
    for name, value in values.items():
        lines += _comment((name,), comments, '')
        lines += _entry(f'{name} = ', value, (name,), comments, '')
        lines.append('')
    return '\n'.join(lines)


def _comment(
    path: tuple[str, ...],
    comments: Mapping[tuple[str, ...], str],
    indent: str,
) -> list[str]:
    if path not in comments:
        return []
    start = f'{indent}# '
    return textwrap.wrap(
        comments[path],
        WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _entry(
    start: str,
    value: Any,
    path: tuple[str, ...],
    comments: Mapping[tuple[str, ...], str],
    indent: str,
    end: str = '',
) -> list[str]:
    """Lines of one key or item and what is in it."""
    line = f'{indent}{start}{_flat(value)}{end}'
    is_commented = any(
        len(key) > len(path) and key[: len(path)] == path for key in comments
    )
    if not value or not isinstance(value, (dict, list, tuple)):
        return [line]
    if len(line) <= WIDTH and not is_commented:
        return [line]
    opening, closing = _brackets(value)
    inner = indent + '    '
    lines = [f'{indent}{start}{opening}']
    for key, head, item in _items(value):
        lines += _comment((*path, key), comments, inner)
        lines += _entry(head, item, (*path, key), comments, inner, ',')
    lines.append(f'{indent}{closing}{end}')
    return lines


def _items(value: Any) -> Iterator[tuple[str, str, Any]]:
    """Key, what stands before the value, and value."""
    if isinstance(value, dict):
        form = '{}=' if _are_names(value) else '{!r}: '
        for key, item in value.items():
            yield str(key), form.format(key), item
    else:
        for index, item in enumerate(value):
            yield str(index), '', item


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, dict):
        return ('dict(', ')') if _are_names(value) else ('{', '}')
    return ('[', ']') if isinstance(value, list) else ('(', ')')


def _are_names(value: Mapping[Any, Any]) -> bool:
    return all(
        isinstance(key, str) and key.isidentifier() and not iskeyword(key)
        for key in value
    )


def _flat(value: Any) -> str:
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    opening, closing = _brackets(value)
    items = [f'{head}{_flat(item)}' for _, head, item in _items(value)]
    comma = ',' if isinstance(value, tuple) and len(items) == 1 else ''
    return f'{opening}{", ".join(items)}{comma}{closing}'
