"""Connectors between records of different shapes."""

from collections.abc import Sequence
from typing import Any

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.autodistill.shapes import Shape, width

# Keys of connectors by what they hold.
STUDENT_WIDTHS = ('in_channel', 'in_channels', 'student_channels')
TEACHER_WIDTHS = ('out_channel', 'out_channels', 'teacher_channels')


def make_connectors(
    students: Sequence[Shape], teachers: Sequence[Shape], resizes: bool
) -> list[dict[str, Any]]:
    """Makes connectors where the shapes of two records differ.

    Args:
        students (Sequence[Shape]): Shape of the student's record per level:
            (N, C, H, W), or with the channels last (N, C) or (N, L, C).
        teachers (Sequence[Shape]): Shapes of the teacher's.
        resizes (bool): Whether sizes need no connector.

    Returns:
        list[dict[str, Any]]: A config per level; empty if none is needed.

    Raises:
        ConfigError: If no connector maps them to each other.
    """
    pairs = [*zip(students, teachers, strict=True)]
    widens = any(width(ours) != width(theirs) for ours, theirs in pairs)
    if not widens and resizes:
        return []
    if len(students[0]) != len(teachers[0]):
        raise ConfigError(
            f'The student is recorded with the shape {students[0]} and the '
            f'teacher with {teachers[0]}. No connector maps them to each '
            'other: take models of one kind, or another method.'
        )
    if len(students[0]) != 4:
        return [
            {
                'type': 'TorchNNConnector',
                'module_name': 'Linear',
                'module_args': {
                    'in_features': width(ours),
                    'out_features': width(theirs),
                },
            }
            for ours, theirs in pairs
        ]
    if not widens:
        return [
            {
                'type': 'TorchFunctionalConnector',
                'function_name': 'interpolate',
                'func_args': {
                    'scale_factor': theirs[2] / ours[2],
                    'mode': 'bilinear',
                },
            }
            for ours, theirs in pairs
        ]
    return [
        {
            'type': 'ConvModuleConnector',
            'in_channel': ours[1],
            'out_channel': theirs[1],
            **({} if resizes else resizing_geometry(ours, theirs)),
            'act_cfg': None,
        }
        for ours, theirs in pairs
    ]


def fit_connector(
    connector: dict[str, Any],
    students: Sequence[Shape],
    teachers: Sequence[Shape],
    resizes: bool,
) -> None:
    """Sets the channels of a method's own connector, and sizes if it can.

    Args:
        connector (dict[str, Any]): Its config.
        students (Sequence[Shape]): Shapes of the student's records.
        teachers (Sequence[Shape]): Shapes of the teacher's.
        resizes (bool): Whether sizes need no connector.
    """
    set_keys(connector, STUDENT_WIDTHS, [width(s) for s in students])
    set_keys(connector, TEACHER_WIDTHS, [width(t) for t in teachers])
    if connector['type'].endswith('ConvModuleConnector') and not resizes:
        connector.update(resizing_geometry(students[0], teachers[0]))


def resizing_geometry(student: Shape, teacher: Shape) -> dict[str, Any]:
    """Keys of a convolution that gives a map another size.

    Args:
        student (Shape): Shape (N, C, H, W) of the student's map.
        teacher (Shape): Shape of the teacher's.

    Returns:
        dict[str, Any]: The keys; empty if the sizes are equal.

    Raises:
        ConfigError: If neither size is a multiple of the other.
    """
    ours, theirs = student[2:], teacher[2:]
    if ours == theirs:
        return {}
    down, up = round(ours[0] / theirs[0]), round(theirs[0] / ours[0])
    if down > 1 and theirs == tuple(-(-length // down) for length in ours):
        return {'kernel_size': 3, 'stride': down, 'padding': 1}
    if theirs == tuple(length * up for length in ours):
        return {
            'conv_cfg': {'type': 'deconv'},
            'kernel_size': up + 2 * (up // 2),
            'stride': up,
            'padding': up // 2,
        }
    raise ConfigError(
        f'The maps have the sizes {ours} of the student and {theirs} of the '
        'teacher, neither a multiple of the other. Take a method whose loss '
        'resizes maps.'
    )


def set_keys(
    part: dict[str, Any], keys: Sequence[str], values: list[int]
) -> None:
    """Sets those of some keys that a part has, to one value or to all.

    Args:
        part (dict[str, Any]): Config of a connector or loss.
        keys (Sequence[str]): The keys.
        values (list[int]): A value per level. A key that holds a list gets
            them all, any other the first.
    """
    for key in keys:
        if key in part:
            several = isinstance(part[key], (list, tuple))
            part[key] = values if several else values[0]
