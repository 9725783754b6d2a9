"""Shapes of what modules return, in place of the tensors."""

from collections.abc import Sequence
from typing import Any

import torch

Shape = tuple[int, ...]


def shapes_of(outputs: Any) -> Any:
    """Replaces the tensors in nested tuples and lists with their shapes.

    Args:
        outputs (Any): What a module returns.

    Returns:
        Any: A shape, a list of what a tuple or list holds, or None for
        anything else.
    """
    if isinstance(outputs, torch.Tensor):
        return tuple(outputs.shape)
    if isinstance(outputs, (list, tuple)):
        return [shapes_of(output) for output in outputs]
    return None


def is_pyramid(shapes: Any) -> bool:
    """Whether shapes are those of a tuple or list of maps (N, C, H, W)."""
    return (
        isinstance(shapes, list)
        and bool(shapes)
        and all(isinstance(s, tuple) and len(s) == 4 for s in shapes)
    )


def width(shape: Shape) -> int:
    """Channels of a record: dimension 1 of maps, else the last one."""
    return shape[1] if len(shape) == 4 else shape[-1]


def same_sizes(students: Sequence[Shape], teachers: Sequence[Shape]) -> bool:
    """Whether both sides have as many maps, of the same heights and widths."""
    return [s[2:] for s in students if len(s) == 4] == [
        t[2:] for t in teachers if len(t) == 4
    ]


def common_levels(
    students: Sequence[Shape], teachers: Sequence[Shape]
) -> list[tuple[int, int]]:
    """Finds the levels that two pyramids have in common.

    Args:
        students (Sequence[Shape]): Shapes (N, C, H, W) of the student's maps.
        teachers (Sequence[Shape]): Shapes of the teacher's.

    Returns:
        list[tuple[int, int]]: Indices of the maps of one height and width, or
        of the first ones if there are none.
    """
    number = min(len(students), len(teachers))
    first = [(level, level) for level in range(number)]
    if same_sizes(students[:number], teachers[:number]):
        return first
    pairs: list[tuple[int, int]] = []
    for i, ours in enumerate(students):
        after = pairs[-1][1] + 1 if pairs else 0
        for j in range(after, len(teachers)):
            if ours[2:] == teachers[j][2:]:
                pairs.append((i, j))
                break
    return pairs or first


def strides_of(shapes: Sequence[Shape], height: int) -> list[int]:
    """Strides of maps on images of a height."""
    return [round(height / shape[2]) for shape in shapes]


def describe_shapes(shapes: Any, height: int) -> str:
    """Says in words what a module returns.

    Args:
        shapes (Any): As :func:`shapes_of` has them.
        height (int): Height of the images.

    Returns:
        str: Number, channels and strides of maps, or number of values.
    """
    if is_pyramid(shapes):
        widths = [*dict.fromkeys(str(shape[1]) for shape in shapes)]
        strides = map(str, strides_of(shapes, height))
        return (
            f'{len(shapes)} maps of {", ".join(widths)} channels with strides '
            f'{", ".join(strides)}'
        )
    if isinstance(shapes, tuple) and len(shapes) == 4:
        (stride,) = strides_of([shapes], height)
        return f'a map of {shapes[1]} channels with stride {stride}'
    if isinstance(shapes, tuple):
        return f'{width(shapes)} values per sample'
    return f'{len(shapes)} parts'
