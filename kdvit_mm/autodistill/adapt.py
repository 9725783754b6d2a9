"""Fits a method's distiller to a pair of models."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

from mmengine.utils import get_object_from_string

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.autodistill.probe import Probe, is_pyramid
from kdvit_mm.models.utils.explain import are_scores, classes_of
from kdvit_mm.registry import MODELS

Shape = tuple[int, ...]
SIDES = ('student', 'teacher')
# Keys of connectors and losses by what they hold. A method whose own keys are
# named like these is fitted without further ado.
STUDENT_WIDTHS = ('in_channel', 'in_channels', 'student_channels')
TEACHER_WIDTHS = ('out_channel', 'out_channels', 'teacher_channels')
LOSS_WIDTHS = ('channels',)
STRIDES = ('stride', 'strides')
OF_THE_HEAD = ('anchor_generator', 'assigner', 'reg_max')
# Keys of a loss that holds another one per level.
PER_LEVEL = ('loss', 'level_loss', 'connector')
STAGES = 4


class PairAdapter:
    """Fits a distiller's config to a student and a teacher.

    Sources that a model lacks are replaced by what plays the same part in it,
    pyramids are cut to the levels that both models have, numbers of levels,
    channels, strides and what is the student head's are set, and connectors
    are added where channels or sizes differ.

    Args:
        distiller (Mapping[str, Any]): Config of the method's distiller.
        student (Probe): The student, after it has run.
        teacher (Probe): The teacher.

    Attributes:
        distiller (dict[str, Any]): The fitted config.
        comments (dict[tuple[str, ...], str]): Why its entries are there, by
            the keys that lead to them.

    Raises:
        ConfigError: If the method cannot be fitted.
    """

    def __init__(
        self, distiller: Mapping[str, Any], student: Probe, teacher: Probe
    ) -> None:
        self.distiller = copy.deepcopy(dict(distiller))
        self.distiller.setdefault('connectors', {})
        self.probes = {'student': student, 'teacher': teacher}
        self.comments: dict[tuple[str, ...], str] = {}
        self._left_out: list[str] = []
        for side in SIDES:
            self._locate_recorders(side)
        for name in [*self._mappings]:
            self._fit(name)
        if not self._mappings:
            raise ConfigError(*self._left_out)
        self._drop_unused()
        self._comment()

    @property
    def _losses(self) -> dict[str, Any]:
        return self.distiller['distill_losses']

    @property
    def _mappings(self) -> dict[str, Any]:
        return self.distiller['loss_forward_mappings']

    def _recorders(self, side: str) -> dict[str, Any]:
        return self.distiller[f'{side}_recorders']

    def _records(self, side: str) -> Iterator[dict[str, Any]]:
        """The arguments of all losses that come from one side."""
        for mapping in self._mappings.values():
            for record in mapping.values():
                if record['from_student'] is (side == 'student'):
                    yield record

    def _locate_recorders(self, side: str) -> None:
        """Points the recorders of a side to what its model has."""
        probe = self.probes[side]
        for name, recorder in self._recorders(side).items():
            source = recorder['source']
            kind = recorder['type'].rpartition('.')[2]
            if kind.startswith(('Method', 'Function')):
                _check_owner(probe, source)
                continue
            if kind == 'Module' and source in dict(
                probe.model.named_modules()
            ):
                continue
            recorder['source'], index = locate(probe, source)
            for record in self._records(side):
                if record['recorder'] == name and index is not None:
                    record['data_idx'] = index
            if recorder['source'] != source:
                self.comments[(f'{side}_recorders', name)] = (
                    f'In place of "{source}", which {probe.kind} does not '
                    'have.'
                )

    def _output(self, side: str, record: Mapping[str, Any]) -> Any:
        """Shapes of all that the module of a record returns."""
        recorder = self._recorders(side)[record['recorder']]
        if 'Outputs' in recorder['type'] or 'Levels' in recorder['type']:
            return self.probes[side].outputs.get(recorder['source'])
        return None

    def _shapes(self, side: str, record: Mapping[str, Any]) -> Any:
        output, index = self._output(side, record), record.get('data_idx')
        if index is None:
            return output
        is_there = isinstance(output, list) and index < len(output)
        return output[index] if is_there else None

    def _fit(self, name: str) -> None:
        """Fits a loss, its records and its connector."""
        mapping, loss = self._mappings[name], self._losses[name]
        for part in _innermost(loss):
            self._take_from_head(part)
        if not {'preds_S', 'preds_T'} <= mapping.keys():
            return
        records = mapping['preds_S'], mapping['preds_T']
        if not self._share_levels(name, loss, records):
            return
        shapes = [
            self._shapes(side, record)
            for side, record in zip(SIDES, records, strict=True)
        ]
        if all(map(is_pyramid, shapes)):
            students, teachers = shapes
        elif all(isinstance(shape, tuple) for shape in shapes):
            students, teachers = [[shape] for shape in shapes]
        else:
            # What it takes only the loss can say.
            return
        if self._compares_scores(name, records, students[0], teachers[0]):
            return
        resizes = _same_sizes(students, teachers) or _let_resize(loss)
        if any(key in loss for key in PER_LEVEL[:2]) and 'num_levels' in loss:
            self._fit_levels(loss, students, teachers, resizes)
            return
        self._fit_keys(loss, students, teachers, LOSS_WIDTHS)
        if 'num_levels' in loss:
            loss['num_levels'] = min(
                loss['num_levels'], len(self._common_levels(records))
            )
        if 'connector' in records[0]:
            connector = self.distiller['connectors'][records[0]['connector']]
            _fit_connector(connector, students, teachers, resizes)
            return
        connectors = make_connectors(students, teachers, resizes)
        if connectors and is_pyramid(shapes[0]):
            self._losses[name] = {
                'type': 'kdvit_mm.LevelWise',
                'num_levels': len(students),
                'loss': loss,
                'connector': _merged(connectors),
            }
        elif connectors:
            records[0]['connector'] = f'{name}_s'
            self.distiller['connectors'][f'{name}_s'] = connectors[0]

    def _share_levels(
        self, name: str, loss: Mapping[str, Any], records: Sequence[dict]
    ) -> bool:
        """Maps both records to levels that both models have.

        Returns:
            bool: False if the loss is of a level that they do not share.
        """
        outputs = [
            self._output(side, record)
            for side, record in zip(SIDES, records, strict=True)
        ]
        indices = [record.get('data_idx') for record in records]
        if all(map(is_pyramid, outputs)):
            common = self._common_levels(records)
            if indices == [None, None]:
                common = common[: loss.get('num_levels', len(common))]
                for number, side in enumerate(SIDES):
                    levels = [pair[number] for pair in common]
                    self._cut(side, records[number], levels)
            elif None not in indices:
                # One loss per level, each of which names its own.
                level = indices[0]
                if level >= len(common):
                    self._leave_out(
                        name, f'the models share {len(common)} levels.'
                    )
                    return False
                records[0]['data_idx'], records[1]['data_idx'] = common[level]
            return True
        shapes = [
            self._shapes(side, record)
            for side, record in zip(SIDES, records, strict=True)
        ]
        if all(map(is_pyramid, shapes)) and not _same_sizes(*shapes):
            raise ConfigError(
                f'{name} compares what the heads return, level by level: '
                f'{shapes[0]} of the student ({self.probes["student"].kind}) '
                f'and {shapes[1]} of the teacher '
                f'({self.probes["teacher"].kind}). Take a teacher whose head '
                'has the same strides, or a method that distils the neck.'
            )
        return True

    def _common_levels(
        self, records: Sequence[Mapping[str, Any]]
    ) -> list[tuple[int, int]]:
        """Pairs of levels of one size, or the first ones if there are none."""
        students, teachers = (
            self._output(side, record)
            for side, record in zip(SIDES, records, strict=True)
        )
        number = min(len(students), len(teachers))
        first = [(level, level) for level in range(number)]
        if _same_sizes(students[:number], teachers[:number]):
            return first
        pairs: list[tuple[int, int]] = []
        for i, ours in enumerate(students):
            after = pairs[-1][1] + 1 if pairs else 0
            for j in range(after, len(teachers)):
                if ours[2:] == teachers[j][2:]:
                    pairs.append((i, j))
                    break
        return pairs or first

    def _cut(
        self, side: str, record: dict[str, Any], levels: list[int]
    ) -> None:
        """Leaves a record some levels of its pyramid."""
        if levels == [*range(len(self._output(side, record)))]:
            return
        if len(levels) == 1:
            record['data_idx'] = levels[0]
            return
        recorders, name = self._recorders(side), record['recorder']
        record['recorder'] = f'{name}_levels'
        recorders[f'{name}_levels'] = {
            'type': 'kdvit_mm.FPNLevelSelection',
            'source': recorders[name]['source'],
            'levels': levels,
        }

    def _compares_scores(
        self, name: str, records: Sequence[dict], ours: Shape, theirs: Shape
    ) -> bool:
        """Leaves out a loss on class scores that are not comparable."""
        if ours[1] == theirs[1]:
            return False
        probes = [self.probes[side] for side in SIDES]
        sources = [
            self._recorders(side)[record['recorder']]['source']
            for side, record in zip(SIDES, records, strict=True)
        ]
        classes = [
            classes_of(probe.model, source)
            for probe, source in zip(probes, sources, strict=True)
        ]
        if are_scores([ours[1], theirs[1]], classes):
            reason = (
                f'it compares scores of {classes[0]} classes of the student '
                f'with those of {classes[1]} classes of the teacher, and '
                'scores can be compared only class by class. Take a teacher '
                'trained for the same classes, or a method that distils '
                'features.'
            )
        elif any(
            hasattr(probe.model.get_submodule(source), 'num_classes')
            for probe, source in zip(probes, sources, strict=True)
        ):
            reason = (
                f'the heads return maps of {ours[1]} channels '
                f'({probes[0].kind}) and {theirs[1]} channels '
                f'({probes[1].kind}). Take a teacher whose head has the same '
                'anchors and classes, or a method that distils features.'
            )
        else:
            return False
        self._leave_out(name, reason)
        return True

    def _leave_out(self, name: str, reason: str) -> None:
        del self._losses[name], self._mappings[name]
        self._left_out.append(f'{name} is left out: {reason}')

    def _fit_levels(
        self,
        loss: dict[str, Any],
        students: Sequence[Shape],
        teachers: Sequence[Shape],
        resizes: bool,
    ) -> None:
        """Fits a loss that holds a loss and a connector per level."""
        loss['num_levels'] = len(students)
        if not loss.get('connector'):
            loss['connector'] = make_connectors(students, teachers, resizes)
        for key in PER_LEVEL:
            if not loss.get(key):
                loss.pop(key, None)
                continue
            given = loss[key]
            parts = []
            for level, pair in enumerate(zip(students, teachers, strict=True)):
                one = given if isinstance(given, dict) else given[level]
                parts.append(copy.deepcopy(one))
                levels = [[shape] for shape in pair]
                if key == 'connector':
                    _fit_connector(parts[-1], *levels, resizes)
                    continue
                self._fit_keys(parts[-1], *levels, LOSS_WIDTHS)
                if 'num_levels' in parts[-1]:
                    parts[-1]['num_levels'] = len(students)
            loss[key] = _merged(parts)

    def _fit_keys(
        self,
        part: dict[str, Any],
        students: Sequence[Shape],
        teachers: Sequence[Shape],
        widths: Sequence[str],
    ) -> None:
        """Sets a loss's channels and strides."""
        _set_keys(part, widths, [width(shape) for shape in teachers])
        if len(teachers[0]) == 4:
            height = self.probes['teacher'].size[0]
            strides = [round(height / shape[2]) for shape in teachers]
            _set_keys(part, STRIDES, strides)

    def _take_from_head(self, loss: dict[str, Any]) -> None:
        """Gives a loss what it asks for of the student's head."""
        student = self.probes['student']
        config = student.config.get('bbox_head')
        known = signature(_class_of(loss)).parameters
        if not isinstance(config, dict):
            return
        found = {
            'anchor_generator': config.get('anchor_generator'),
            'assigner': (student.config.get('train_cfg') or {}).get(
                'assigner'
            ),
            'reg_max': getattr(student.model.bbox_head, 'reg_max', None),
        }
        for key in OF_THE_HEAD:
            if key in known and found[key] is not None:
                loss[key] = found[key]

    def _drop_unused(self) -> None:
        for side in SIDES:
            used = {record['recorder'] for record in self._records(side)}
            recorders = self._recorders(side)
            for name in recorders.keys() - used:
                del recorders[name]
                self.comments.pop((f'{side}_recorders', name), None)
        used = {
            record['connector']
            for record in self._records('student')
            if 'connector' in record
        }
        connectors = self.distiller['connectors']
        for name in connectors.keys() - used:
            del connectors[name]
        if not connectors:
            del self.distiller['connectors']

    def _comment(self) -> None:
        """Says of each entry why it is there."""
        for side in SIDES:
            self.comments[(f'{side}_recorders',)] = (
                f'What is taken from the {side}, a {self.probes[side].kind}.'
            )
            for name, recorder in self._recorders(side).items():
                key = (f'{side}_recorders', name)
                text = f'{self._describe(side, recorder)} '
                text += self.comments.get(key, '')
                self.comments[key] = text.strip()
        if 'connectors' in self.distiller:
            self.comments[('connectors',)] = (
                "Trained with the student, to give its records the teacher's "
                'shapes. The exported student is without them.'
            )
        self.comments[('loss_forward_mappings',)] = (
            'Which record is which argument of a loss.'
        )
        if self._left_out:
            self.comments[('distill_losses',)] = ' '.join(self._left_out)

    def _describe(self, side: str, recorder: Mapping[str, Any]) -> str:
        probe, source = self.probes[side], recorder['source']
        if 'Inputs' in recorder['type']:
            what = probe.kind_of(source) if source else 'the model'
            return f'What {what} is given.'
        if source not in probe.outputs or 'Method' in recorder['type']:
            return 'Computed in each step anew, for the loss to use.'
        shapes = probe.outputs[source]
        if 'levels' in recorder:
            shapes = [shapes[level] for level in recorder['levels']]
        return f'{probe.kind_of(source)}: {describe_shapes(shapes, probe)}.'


def locate(probe: Probe, source: str) -> tuple[str, int | None]:
    """Finds what plays a module's part in a model.

    Args:
        probe (Probe): The model, after it has run.
        source (str): Name of the module in a method's distiller.

    Returns:
        tuple[str, int | None]: Name of a module that the model calls, and the
        index of the one map of its output, or None for all of it.

    Raises:
        ConfigError: If there is nothing of the kind.
    """
    if not source or source in probe.outputs:
        return source, None
    part, _, inner = source.partition('.')
    maps = [
        name
        for name, shapes in probe.outputs.items()
        if '.' not in name and 'head' not in name and is_pyramid(shapes)
    ]
    if part == 'neck' and not inner and maps:
        return maps[-1], None
    if part == 'backbone' and 'backbone' in maps:
        # Stages count from the last one, the fourth of a ResNet.
        number = len(probe.outputs['backbone'])
        stage = int(inner[-1]) if inner[-1:].isdigit() else STAGES
        return 'backbone', min(max(number + stage - STAGES, 1), number) - 1
    if part in ('decode_head', 'head') and inner:
        layers = [
            name
            for name, shape in probe.outputs.items()
            if name.startswith(f'{part}.')
            and isinstance(shape, tuple)
            and len(shape) > 1
            and shape[1] == classes_of(probe.model, name)
            and not [*probe.model.get_submodule(name).children()]
        ]
        if layers:
            return layers[-1], None
    raise ConfigError(
        f'It records "{source}", for which the {probe.side} ({probe.kind}) '
        'has nothing: such a module is not called in its forward.'
    )


def _check_owner(probe: Probe, source: str) -> None:
    """Checks that a model calls the method that is recorded."""
    name = source.rpartition('.')[0]
    owner = get_object_from_string(name)
    if isinstance(owner, type) and not any(
        isinstance(module, owner) for module in probe.model.modules()
    ):
        raise ConfigError(
            f'It records "{source}", but the {probe.side} ({probe.kind}) has '
            f'no {owner.__name__}.'
        )


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
    """
    pairs = [*zip(students, teachers, strict=True)]
    widens = any(width(ours) != width(theirs) for ours, theirs in pairs)
    if not widens and resizes:
        return []
    if len(students[0]) != len(teachers[0]):
        raise ConfigError(
            f'The records have the shapes {students} and {teachers}, which no '
            'connector maps to each other.'
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


def resizing_geometry(student: Shape, teacher: Shape) -> dict[str, Any]:
    """Keys of a convolution that resizes the student's map.

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
    if theirs == tuple(-(-length // max(down, 1)) for length in ours):
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


def _fit_connector(
    connector: dict[str, Any],
    students: Sequence[Shape],
    teachers: Sequence[Shape],
    resizes: bool,
) -> None:
    """Sets the channels of a connector, and the size where it can."""
    _set_keys(connector, STUDENT_WIDTHS, [width(s) for s in students])
    _set_keys(connector, TEACHER_WIDTHS, [width(t) for t in teachers])
    if connector['type'].endswith('ConvModuleConnector') and not resizes:
        connector.update(resizing_geometry(students[0], teachers[0]))


def _set_keys(
    part: dict[str, Any], keys: Sequence[str], values: list[int]
) -> None:
    """Sets those of some keys that a part has: one value, or one per level."""
    for key in keys:
        if key in part:
            several = isinstance(part[key], (list, tuple))
            part[key] = values if several else values[0]


def width(shape: Shape) -> int:
    """Channels of a record: dimension 1 of maps, else the last one."""
    return shape[1] if len(shape) == 4 else shape[-1]


def _same_sizes(students: Sequence[Shape], teachers: Sequence[Shape]) -> bool:
    """Whether there are as many maps on both sides, of the same sizes."""
    return [s[2:] for s in students if len(s) == 4] == [
        t[2:] for t in teachers if len(t) == 4
    ]


def _merged(parts: list[dict[str, Any]]) -> Any:
    """One config for all levels, or one per level if they differ."""
    return parts[0] if all(part == parts[0] for part in parts) else parts


def _innermost(loss: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A loss, or those that it holds."""
    inner = loss.get('loss') or loss.get('level_loss')
    if not inner:
        yield loss
        return
    for part in [inner] if isinstance(inner, dict) else inner:
        yield from _innermost(part)


def _class_of(part: Mapping[str, Any]) -> Any:
    kind = part['type']
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ConfigError(f'There is no model "{kind}".')
    return found


def _let_resize(loss: dict[str, Any]) -> bool:
    """Lets a loss resize the maps, if it can."""
    can = []
    for part in _innermost(loss):
        cls = _class_of(part)
        keys = [k for k in signature(cls).parameters if k.startswith('resize')]
        for key in keys:
            part.setdefault(key, True)
        can.append(bool(keys) or bool(getattr(cls, 'resized_side', None)))
    return all(can)


def describe_shapes(shapes: Any, probe: Probe) -> str:
    """Says in words what a module returns.

    Args:
        shapes (Any): Its shapes, as in :attr:`Probe.outputs`.
        probe (Probe): The model, for the size of the images.

    Returns:
        str: Number, channels and strides of maps, or the shape.
    """
    if is_pyramid(shapes):
        widths = [*dict.fromkeys(str(shape[1]) for shape in shapes)]
        strides = ', '.join(
            str(round(probe.size[0] / shape[2])) for shape in shapes
        )
        return (
            f'{len(shapes)} maps of {", ".join(widths)} channels, strides '
            f'{strides}'
        )
    if isinstance(shapes, tuple) and len(shapes) == 4:
        stride = round(probe.size[0] / shapes[2])
        return f'a map of {shapes[1]} channels, stride {stride}'
    if isinstance(shapes, tuple):
        return f'{width(shapes)} values per sample'
    return 'class scores, boxes and what else it predicts, per level'
