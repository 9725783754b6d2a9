"""Fits a method's distiller to a pair of models."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

from mmengine.utils import get_object_from_string

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.autodistill.connectors import (
    STUDENT_WIDTHS,
    TEACHER_WIDTHS,
    fit_connector,
    make_connectors,
    set_keys,
)
from kdvit_mm.autodistill.probe import Probe, locate
from kdvit_mm.autodistill.shapes import (
    Shape,
    common_levels,
    describe_shapes,
    is_pyramid,
    same_sizes,
    strides_of,
    width,
)
from kdvit_mm.models.utils.explain import are_scores, classes_of
from kdvit_mm.registry import MODELS

SIDES = ('student', 'teacher')
# Keys of losses by what they hold.
WIDTHS = ('channels',)
STRIDES = ('stride', 'strides')


class PairAdapter:
    """Fits a distiller's config to a student and a teacher.

    Sources that a model lacks are replaced by their counterparts, pyramids are
    cut to the levels that both models have, and numbers of levels, channels,
    strides and values of the student's head are set. Connectors are added
    where channels or sizes differ. Recorders, keys and parameters are found by
    their names: no method is named here.

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
        self._base = distiller
        self.distiller.setdefault('connectors', {})
        self.comments: dict[tuple[str, ...], str] = {}
        self._probes = {'student': student, 'teacher': teacher}
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
        probe = self._probes[side]
        for name, recorder in self._recorders(side).items():
            source, kind = recorder['source'], _kind_of(recorder)
            if kind.startswith(('Method', 'Function')):
                _check_owner(probe, source)
                continue
            if kind == 'Module' and source in dict(
                probe.model.named_modules()
            ):
                continue
            recorder['source'], index = locate(probe, source)
            if recorder['source'] == source:
                continue
            for record in self._records(side):
                if record['recorder'] == name and index is not None:
                    record['data_idx'] = index
            self.comments[(f'{side}_recorders', name)] = (
                f'In place of "{source}", which {probe.kind} lacks.'
            )

    def _output(self, side: str, record: Mapping[str, Any]) -> Any:
        """Shapes of all that the module of a record returns."""
        recorder = self._recorders(side)[record['recorder']]
        if not _keeps_outputs(recorder):
            return None
        shapes = self._probes[side].outputs[recorder['source']]
        if recorder.get('levels') is not None:
            shapes = [shapes[level] for level in recorder['levels']]
        return shapes

    def _shapes(self, side: str, record: Mapping[str, Any]) -> Any:
        shapes, index = self._output(side, record), record.get('data_idx')
        if index is None:
            return shapes
        return shapes[index] if isinstance(shapes, list) else None

    def _fit(self, name: str) -> None:
        """Fits a loss, its records and its connector."""
        mapping, loss = self._mappings[name], self._losses[name]
        for part in _innermost(loss):
            self._take_from_head(part)
        if not {'preds_S', 'preds_T'} <= mapping.keys():
            return
        records = [mapping['preds_S'], mapping['preds_T']]
        shapes = [
            self._shapes(side, record)
            for side, record in zip(SIDES, records, strict=True)
        ]
        if all(map(is_pyramid, shapes)):
            students, teachers = self._share_levels(name, records, *shapes)
        elif all(isinstance(shape, tuple) for shape in shapes):
            students, teachers = [[shape] for shape in shapes]
        else:
            # Only the loss knows what these are.
            return
        refusal = self._refuse_scores(records, students[0], teachers[0])
        if refusal:
            del self._losses[name], self._mappings[name]
            self._left_out.append(f'{name} is left out: {refusal}')
            return
        resizes = same_sizes(students, teachers) or _let_resize(loss)
        if 'loss' in loss and 'num_levels' in loss:
            self._fit_levels(loss, students, teachers, resizes)
            return
        self._set_loss_keys(loss, students, teachers)
        if 'connector' in records[0]:
            connector = self.distiller['connectors'][records[0]['connector']]
            fit_connector(connector, students, teachers, resizes)
            return
        kind = _class_of(loss)
        if getattr(kind, 'equal_dims', None) == 1:
            # Channels may differ; sizes, too, unless it says otherwise.
            resizes = resizes or not kind.equal_sizes
            teachers = [
                (*ours[:2], *theirs[2:])
                for ours, theirs in zip(students, teachers, strict=True)
            ]
        connectors = make_connectors(students, teachers, resizes)
        if connectors and len(students) > 1:
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
        self,
        name: str,
        records: Sequence[dict[str, Any]],
        students: list[Shape],
        teachers: list[Shape],
    ) -> tuple[list[Shape], list[Shape]]:
        """Cuts two pyramids to the levels that both models have."""
        pairs = common_levels(students, teachers)
        loss = self._losses[name]
        if 'loss' in loss:
            pairs = pairs[: loss.get('num_levels', len(pairs))]
        if len(pairs) == len(students) == len(teachers):
            return students, teachers
        if 'data_idx' in records[0]:
            raise ConfigError(
                f'{name} compares what the heads return, level by level, but '
                f'{self._strides("student", students)}, and '
                f'{self._strides("teacher", teachers)}. Take a teacher whose '
                'head has the same strides, or a method that distils '
                'features.'
            )
        for side, record, levels in zip(
            SIDES, records, zip(*pairs, strict=True), strict=True
        ):
            self._cut(side, record, [*levels])
        return [students[i] for i, _ in pairs], [teachers[j] for _, j in pairs]

    def _strides(self, side: str, shapes: Sequence[Shape]) -> str:
        probe = self._probes[side]
        strides = map(str, strides_of(shapes, probe.size[0]))
        return (
            f'those of the {side} ({probe.kind}) have the strides '
            f'{", ".join(strides)}'
        )

    def _cut(
        self, side: str, record: dict[str, Any], levels: list[int]
    ) -> None:
        """Leaves a record some levels of its pyramid."""
        if len(levels) == 1:
            record['data_idx'] = levels[0]
        elif levels != [*range(len(self._output(side, record)))]:
            recorders, name = self._recorders(side), record['recorder']
            record['recorder'] = f'{name}_levels'
            recorders[f'{name}_levels'] = {
                'type': 'kdvit_mm.FPNLevelSelection',
                'source': recorders[name]['source'],
                'levels': levels,
            }
            self.comments[(f'{side}_recorders', record['recorder'])] = (
                'These levels both models have.'
            )

    def _refuse_scores(
        self, records: Sequence[dict], ours: Shape, theirs: Shape
    ) -> str | None:
        """Says why two records are scores that cannot be compared."""
        if width(ours) == width(theirs):
            return None
        student, teacher = self._probes.values()
        sources = [
            self._recorders(side)[record['recorder']]['source']
            for side, record in zip(SIDES, records, strict=True)
        ]
        classes = [
            classes_of(probe.model, source)
            for probe, source in zip((student, teacher), sources, strict=True)
        ]
        if are_scores([width(ours), width(theirs)], classes):
            return (
                f'it compares scores of {classes[0]} classes of the student '
                f'with those of {classes[1]} classes of the teacher. Scores '
                'can be compared only class by class: take a teacher trained '
                'for the same classes, or a method that distils features.'
            )
        if hasattr(student.model.get_submodule(sources[0]), 'num_classes'):
            return (
                f'the heads return {width(ours)} scores per place '
                f'({student.kind}) and {width(theirs)} ({teacher.kind}). Take '
                'a teacher whose head has the same anchors and classes, or a '
                'method that distils features.'
            )
        return None

    def _fit_levels(
        self,
        loss: dict[str, Any],
        students: Sequence[Shape],
        teachers: Sequence[Shape],
        resizes: bool,
    ) -> None:
        """Fits a loss that holds a loss and a connector per level."""
        number = loss['num_levels'] = len(students)
        if loss.get('levels') is not None:
            loss['levels'] = [i for i in loss['levels'] if i < number]
            students = [students[i] for i in loss['levels']]
            teachers = [teachers[i] for i in loss['levels']]
        pairs = [([s], [t]) for s, t in zip(students, teachers, strict=True)]
        connectors = _per_level(loss.get('connector'), len(pairs))
        if connectors:
            for connector, pair in zip(connectors, pairs, strict=True):
                fit_connector(connector, *pair, resizes)
        else:
            connectors = make_connectors(students, teachers, resizes)
        if connectors:
            loss['connector'] = _merged(connectors)
        inner = loss['loss']
        if isinstance(inner, dict) and any(
            isinstance(inner.get(key), list) for key in WIDTHS + STRIDES
        ):
            # One object computes the whole pyramid.
            self._set_loss_keys(inner, students, teachers)
            return
        parts = _per_level(inner, len(pairs))
        for part, pair in zip(parts, pairs, strict=True):
            self._set_loss_keys(part, *pair)
        loss['loss'] = _merged(parts)

    def _set_loss_keys(
        self,
        loss: dict[str, Any],
        students: Sequence[Shape],
        teachers: Sequence[Shape],
    ) -> None:
        """Sets channels and strides, the teacher's if it does not say."""
        set_keys(loss, STUDENT_WIDTHS, [width(shape) for shape in students])
        set_keys(
            loss,
            (*WIDTHS, *TEACHER_WIDTHS),
            [width(shape) for shape in teachers],
        )
        if len(teachers[0]) == 4:
            height = self._probes['teacher'].size[0]
            set_keys(loss, STRIDES, strides_of(teachers, height))

    def _take_from_head(self, loss: dict[str, Any]) -> None:
        """Gives a loss what its parameters ask for of the student's head."""
        student = self._probes['student']
        config = student.config.get('bbox_head')
        found: dict[str, Any] = {}
        if isinstance(config, dict):
            training = student.config.get('train_cfg') or {}
            found['anchor_generator'] = config.get('anchor_generator')
            found['assigner'] = training.get('assigner')
            found['reg_max'] = getattr(
                student.model.bbox_head, 'reg_max', None
            )
        segments = getattr(student.model, 'decode_head', None)
        for key in ('num_classes', 'ignore_index'):
            found[key] = getattr(segments, key, None)
        known = signature(_class_of(loss)).parameters
        for key, value in found.items():
            if key in known and value is not None:
                loss[key] = copy.deepcopy(value)

    def _drop_unused(self) -> None:
        """Drops recorders and connectors that no loss is mapped to."""
        for side in SIDES:
            used = {record['recorder'] for record in self._records(side)}
            recorders = self._recorders(side)
            for name in recorders.keys() - used:
                del recorders[name]
        connectors = self.distiller.pop('connectors')
        used = {record.get('connector') for record in self._records('student')}
        kept = {k: v for k, v in connectors.items() if k in used}
        if kept:
            self.distiller['connectors'] = kept

    def _comment(self) -> None:
        """Says of each entry why it is there."""
        for side in SIDES:
            self.comments[(f'{side}_recorders',)] = (
                f'What is recorded of the {side}.'
            )
            for name in self._recorders(side):
                key = (f'{side}_recorders', name)
                reason = self.comments.get(key, '')
                text = f'{self._describe(side, name)} {reason}'
                self.comments[key] = text.strip()
        for part in ('connectors', 'distill_losses'):
            base = self._base.get(part) or {}
            for name, config in self.distiller.get(part, {}).items():
                self.comments[(part, name)] = _compare(base.get(name), config)
        self.comments[('connectors',)] = (
            "Trained with the student, to give its records the teacher's "
            'shapes. The exported student is without them.'
        )
        self.comments[('distill_losses',)] = ' '.join(
            ['What the student learns from.', *self._left_out]
        )
        self.comments[('loss_forward_mappings',)] = (
            'Which record is which argument of a loss.'
        )

    def _describe(self, side: str, name: str) -> str:
        probe, recorder = self._probes[side], self._recorders(side)[name]
        source = recorder['source']
        if not _keeps_outputs(recorder):
            if source:
                return f'For the loss: {source.rpartition(".")[2]}.'
            return f'The batch that {probe.kind} gets, with its ground truth.'
        shapes = self._output(side, {'recorder': name})
        kind = type(probe.model.get_submodule(source)).__name__
        return f'{kind}: {describe_shapes(shapes, probe.size[0])}.'


def _kind_of(recorder: Mapping[str, Any]) -> str:
    return recorder['type'].rpartition('.')[2]


def _keeps_outputs(recorder: Mapping[str, Any]) -> bool:
    """Whether a recorder keeps what a module returns."""
    kind = _kind_of(recorder)
    return not (
        kind.startswith(('Method', 'Function', 'Parameter'))
        or kind == 'Module'
        or kind.endswith('Inputs')
    )


def _check_owner(probe: Probe, source: str) -> None:
    """Checks that a model has the method that is recorded."""
    owner = get_object_from_string(source.rpartition('.')[0])
    if isinstance(owner, type) and not any(
        isinstance(module, owner) for module in probe.model.modules()
    ):
        raise ConfigError(
            f'It records "{source}", but the {probe.side} ({probe.kind}) has '
            f'no {owner.__name__}.'
        )


def _compare(base: dict[str, Any] | None, config: dict[str, Any]) -> str:
    """Says what was changed in the method's own config of a part."""
    if base is None:
        return 'Added, as the shapes differ.'
    keys = [*dict.fromkeys(_changed_keys(base, config))]
    return (
        f"The method's values, with {', '.join(keys)} of this pair."
        if keys
        else "The method's values."
    )


def _changed_keys(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            yield from _changed_keys(before, value)
        elif value != before:
            yield key


def _per_level(config: Any, number: int) -> list[dict[str, Any]]:
    """A copy of a config for each level; empty if there is none."""
    if not config:
        return []
    configs = [config] * number if isinstance(config, dict) else config
    return [copy.deepcopy(one) for one in configs[:number]]


def _merged(parts: list[dict[str, Any]]) -> Any:
    """One config for all levels, or one per level if they differ."""
    return parts[0] if all(part == parts[0] for part in parts) else parts


def _innermost(loss: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A loss, or those that it holds."""
    inner = loss.get('loss')
    if not inner:
        yield loss
        return
    for part in [inner] if isinstance(inner, dict) else inner:
        yield from _innermost(part)


def _class_of(part: Mapping[str, Any]) -> Any:
    kind = part['type']
    return MODELS.get(kind) if isinstance(kind, str) else kind


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
