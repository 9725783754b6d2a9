"""Says in words why a distill loss cannot be computed."""

import difflib
from collections.abc import Container
from typing import Any

import torch
from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn

from kdvit_mm.compat.patches.intact_records import tensors_of

# Stands for the distill loss's name where a loss gives advice.
LOSS_NAME = 'loss_NAME'
# Losses of mmrazor and mmdet that compare class scores.
LOGIT_LOSSES = frozenset(
    {
        'CrossEntropyLoss',
        'DISTLoss',
        'DKDLoss',
        'KDSoftCELoss',
        'KLDivergence',
        'KnowledgeDistillationKLDivLoss',
        'WSLD',
    }
)
# What to do where teacher and student have other classes.
SAME_CLASSES = (
    'Logits can be compared only class by class: take a teacher trained for '
    'the same classes, or distil features instead, such as with CWDLoss, '
    "PKDLoss, FGDLoss or MGDLoss and the source 'neck' (or 'backbone') of "
    'both.'
)


def describe(record: Any) -> str:
    """Shape of a record, such as ``(2, 256, 40, 64)`` or a list of them."""
    if isinstance(record, torch.Tensor):
        return str(tuple(record.shape))
    if isinstance(record, (list, tuple)):
        return f'[{", ".join(describe(item) for item in record)}]'
    return type(record).__name__


def connector_line(name: str, student: Any, teacher: Any) -> str | None:
    """The config line of a connector that gives two records equal channels.

    Args:
        name (str): Name of the distill loss, from which the connector's is
            made.
        student (Any): The student's record.
        teacher (Any): The teacher's record.

    Returns:
        str | None: The line, or None where the channels are equal or the
        records are not maps of shape (N, C, H, W).
    """
    connector = channel_connector(student, teacher)
    if connector is None:
        return None
    return (
        f"connectors=dict({name}_s={connector}) and connector='{name}_s' in "
        f'loss_forward_mappings.{name}.preds_S (a connector takes one map: '
        'give the loss a data_idx, or wrap it in kdvit_mm.LevelWise, which '
        'takes a connector per level)'
    )


def channel_connector(student: Any, teacher: Any) -> str | None:
    """The config of a connector that gives two maps equal channels.

    Args:
        student (Any): The student's record.
        teacher (Any): The teacher's record.

    Returns:
        str | None: The config, or None where the channels are equal or the
        records are not maps of shape (N, C, H, W).
    """
    if not (
        isinstance(student, torch.Tensor)
        and isinstance(teacher, torch.Tensor)
        and student.dim() == teacher.dim() == 4
        and student.size(1) != teacher.size(1)
    ):
        return None
    return (
        f"dict(type='ConvModuleConnector', in_channel={student.size(1)}, "
        f'out_channel={teacher.size(1)}, act_cfg=None)'
    )


def other_classes(
    distiller: ConfigurableDistiller,
    loss_name: str,
    inputs: dict[str, Any],
    student: nn.Module,
    teacher: nn.Module,
) -> str | None:
    """What to do where a distill loss compares scores of other classes.

    Scores can only be compared class by class, so no connector helps.

    Args:
        distiller (ConfigurableDistiller): The distiller.
        loss_name (str): A key of ``loss_forward_mappings``.
        inputs (dict[str, Any]): The loss's arguments.
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.

    Returns:
        str | None: The advice, or None where the records are no scores or
        their classes are as many.
    """
    sides = (('student', student), ('teacher', teacher))
    widths: list[int] = []
    classes: list[int | None] = []
    known = True
    for side, model in sides:
        for key, mapping in distiller.loss_forward_mappings[loss_name].items():
            record = next(iter(tensors_of(inputs[key])), None)
            if mapping['from_student'] is (side == 'student') and (
                record is not None and record.dim() > 1
            ):
                break
        else:
            return None
        widths.append(record.size(1 if record.dim() == 4 else -1))
        recorders = getattr(distiller, f'{side}_recorders').recorders
        source = recorders[mapping['recorder']].source
        known &= source in dict(model.named_modules())
        classes.append(classes_of(model, source))
    loss = distiller.distill_losses[loss_name]
    if widths[0] == widths[1]:
        return None
    if known and not are_scores(widths, classes):
        return None
    if not known and not _compares_classes(loss):
        return None
    numbers = classes if known else widths
    return (
        f'it compares scores of {numbers[0]} classes of the student with '
        f'those of {numbers[1]} classes of the teacher. {SAME_CLASSES}'
    )


def _compares_classes(loss: nn.Module) -> bool:
    """Whether a loss compares class scores, which no connector maps."""
    return (
        getattr(loss, 'compares_classes', False)
        or type(loss).__name__ in LOGIT_LOSSES
    )


def classes_of(model: nn.Module, source: str) -> int | None:
    """Number of classes of the module that a source is, or is in.

    Args:
        model (nn.Module): The model.
        source (str): Name of one of its modules.

    Returns:
        int | None: The number, or None if no such module has one.
    """
    modules = dict(model.named_modules())
    while source:
        classes = getattr(modules.get(source), 'num_classes', None)
        if isinstance(classes, int):
            return classes
        source = source.rpartition('.')[0]
    return None


def are_scores(widths: list[int], classes: list[int | None]) -> bool:
    """Whether widths are those of class scores, of as many anchors.

    Args:
        widths (list[int]): Channels of the student's and teacher's records.
        classes (list[int | None]): Their models' numbers of classes.

    Returns:
        bool: True if they are, and the classes differ.
    """
    if not all(classes) or classes[0] == classes[1]:
        return False
    # Besides the classes there may be a background or, in YOLOv3, the box.
    for more in (0, 1, 5):
        anchors = {
            width / ((number or 0) + more)
            for width, number in zip(widths, classes, strict=True)
        }
        if len(anchors) == 1 and anchors <= set(range(1, 13)):
            return True
    return False


def missing_record(
    distiller: ConfigurableDistiller,
    model: nn.Module,
    recorders: Container[str],
) -> str | None:
    """Says which record of a teacher a loss asks for and did not get.

    Args:
        distiller (ConfigurableDistiller): The distiller after a forward of
            the teacher.
        model (nn.Module): The module in which sources are names.
        recorders (Container[str]): Names of the teacher's recorders.

    Returns:
        str | None: Recorder, source, number of its calls and what to record
        instead; None if all records are there.
    """
    for loss, mapping in distiller.loss_forward_mappings.items():
        for key, record in mapping.items():
            if not record['from_student'] and record['recorder'] in recorders:
                where = f'loss_forward_mappings.{loss}.{key}'
                problem = _too_few_calls(distiller, model, record, where)
                if problem:
                    return problem
    return None


def _too_few_calls(
    distiller: ConfigurableDistiller,
    model: nn.Module,
    record: dict[str, Any],
    where: str,
) -> str | None:
    side = 'student' if record['from_student'] else 'teacher'
    recorders = getattr(distiller, f'{side}_recorders').recorders
    recorder = recorders[record['recorder']]
    calls = len(recorder.data_buffer)
    index = record.get('record_idx', 0)
    if index < calls:
        return None
    if calls:
        advice = (
            f'Set record_idx to one of 0 to {calls - 1}: there is one record '
            'per call.'
        )
    else:
        advice = _what_is_called(model, recorder.source)
    return (
        f'{side}_recorders.{record["recorder"]}: "{recorder.source}" was '
        f'called {calls} times in the forward of the {side} '
        f'({type(model).__name__}), but {where} asks for record {index}. '
        f'{advice}'
    )


def _what_is_called(model: nn.Module, source: str) -> str:
    modules = dict(model.named_modules())
    module = modules.get(source)
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        names = [f'"{source}.{name}"' for name, _ in module.named_children()]
        return (
            f'It is a {type(module).__name__}, which is never called itself. '
            f'Record its parts, for example one per stage of a cascade: '
            f'{", ".join(names)}.'
        )
    if module is not None:
        close = difflib.get_close_matches(source, set(modules) - {source}, 3)
        return (
            'Record a module that its forward reaches'
            + (f', such as {", ".join(close)}' if close else '')
            + '; tools/analysis/doctor.py lists the calls of each.'
        )
    method = source.rpartition('.')[2]
    owners = {
        f'{cls.__module__}.{cls.__qualname__}.{method}'
        for part in modules.values()
        for cls in type(part).__mro__
        if method in vars(cls)
    } - {source}
    return (
        f'Methods of that name in the model: {", ".join(sorted(owners))}.'
        if owners
        else 'Record a method or function that its forward calls.'
    )


def collect_inputs(
    distiller: ConfigurableDistiller,
    loss_name: str,
    student: nn.Module,
    teacher: nn.Module,
) -> dict[str, Any]:
    """Arguments that a distill loss gets, connectors applied.

    Args:
        distiller (ConfigurableDistiller): The distiller after a forward of
            student and teacher.
        loss_name (str): A key of ``loss_forward_mappings``.
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.

    Raises:
        ValueError: If a record is not there or does not fit its connector.
    """
    inputs = {}
    for key, mapping in distiller.loss_forward_mappings[loss_name].items():
        where = f'loss_forward_mappings.{loss_name}.{key}'
        model = student if mapping['from_student'] else teacher
        problem = _too_few_calls(distiller, model, mapping, where)
        if problem:
            raise ValueError(problem)
        try:
            inputs[key] = distiller.get_record(**mapping)
        except Exception as error:
            raw = dict(mapping, connector=None, connector_idx=None)
            try:
                found = describe(distiller.get_record(**raw))
            except Exception:
                side = 'student' if mapping['from_student'] else 'teacher'
                raise ValueError(
                    f'{where}: no such record in {side}_recorders.'
                    f'{mapping["recorder"]}: {error}'
                ) from error
            raise ValueError(
                f'{where}: connector "{mapping.get("connector")}" does not '
                f'take the record of shape {found}: {error}'
            ) from error
    return inputs


def explain_failure(
    distiller: ConfigurableDistiller,
    error: Exception,
    student: nn.Module,
    teacher: nn.Module,
) -> Exception:
    """Finds the distill loss that failed and says what to change.

    Args:
        distiller (ConfigurableDistiller): The distiller whose
            ``compute_distill_losses`` raised.
        error (Exception): What it raised.
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.

    Returns:
        Exception: An error that names loss, shapes and, where one helps, the
        connector to add.
    """
    for name in distiller.loss_forward_mappings:
        try:
            inputs = collect_inputs(distiller, name, student, teacher)
        except ValueError as explained:
            return explained
        loss = distiller.distill_losses[name]
        try:
            loss(**inputs)
        except Exception as failure:
            shapes = ', '.join(f'{k} {describe(v)}' for k, v in inputs.items())
            message = (
                f'distill loss "{name}" ({type(loss).__name__}) failed on '
                f'{shapes}: '
            )
            if getattr(loss, 'equal_dims', None) == 1:
                # Channels, or classes, may differ.
                return ValueError(
                    message + str(failure).replace(LOSS_NAME, name)
                )
            advice = other_classes(distiller, name, inputs, student, teacher)
            if advice:
                return ValueError(message + advice)
            message += str(failure).replace(LOSS_NAME, name)
            line = connector_line(
                name, inputs.get('preds_S'), inputs.get('preds_T')
            )
            if (
                line
                and 'connectors=dict(' not in message
                and not _compares_classes(distiller.distill_losses[name])
            ):
                message += f'\nThe channels differ. Add {line}.'
            if _has_denoising_queries(student, inputs):
                message += (
                    '\nThe student adds denoising queries while it trains. '
                    "Record both sides with type='kdvit_mm.MatchingQueries'."
                )
            return ValueError(message)
    return error


def _has_denoising_queries(student: nn.Module, inputs: dict[str, Any]) -> bool:
    queries = getattr(student, 'num_queries', None)
    ours, theirs = inputs.get('preds_S'), inputs.get('preds_T')
    return (
        isinstance(ours, torch.Tensor)
        and isinstance(theirs, torch.Tensor)
        and ours.dim() == theirs.dim() == 3
        and ours.size(1) > theirs.size(1) == queries
    )
