"""Whose weights a checkpoint holds."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmrazor.models.algorithms import BaseAlgorithm
from torch import nn

STUDENT = 'architecture.'


def whose_weights(model: BaseAlgorithm, state: Mapping[str, Any]) -> str:
    """Tells for whom in an algorithm the weights of a checkpoint are.

    Args:
        model (BaseAlgorithm): The algorithm, such as LeanTeacherDistill.
        state (Mapping[str, Any]): State dict of the checkpoint.

    Returns:
        str: ``'algorithm'`` for a distillation checkpoint, ``'student'`` or
        ``'teacher'`` for a checkpoint of that model alone, ``'nobody'`` if
        nothing of it fits.
    """
    if count_fitting(model, state):
        return 'algorithm'
    student = count_fitting(model.architecture, state)
    teacher = getattr(model, 'teacher', None)
    if (
        isinstance(teacher, nn.Module)
        and count_fitting(teacher, state) > student
    ):
        return 'teacher'
    return 'student' if student else 'nobody'


def unwrapped(model: nn.Module) -> Any:
    """Takes a model out of its wrappers.

    Args:
        model (nn.Module): The model, maybe in a wrapper such as
            ``MMDistributedDataParallel`` or for test-time augmentation.

    Returns:
        nn.Module: The model itself.
    """
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


def find_owner(
    model: nn.Module, state: Mapping[str, Any]
) -> tuple[nn.Module, Mapping[str, Any], str]:
    """Finds the model that a checkpoint is to be loaded into.

    Args:
        model (nn.Module): The model that was to be loaded, maybe wrapped.
        state (Mapping[str, Any]): State dict of the checkpoint.

    Returns:
        tuple[nn.Module, Mapping[str, Any], str]: The model, the state dict
        with its names, and what to tell the user, '' if nothing changed.

    Raises:
        ValueError: If the model is an algorithm and the checkpoint is the
            teacher's or fits nothing in it.
    """
    inner = unwrapped(model)
    if isinstance(inner, BaseAlgorithm):
        if all(key.startswith('module.') for key in state):
            state = _renamed(state, 'module.')
        owner = whose_weights(inner, state)
        if owner == 'student':
            student = inner.architecture
            count = _count(student, state)
            message = f'{count} loaded into the student (model.architecture)'
            return student, state, message
        if owner != 'algorithm':
            raise ValueError(_refusal(inner, owner))
    elif not hasattr(inner, 'architecture'):
        student_state = student_weights(state)
        if count_fitting(inner, student_state):
            count = _count(inner, student_state)
            message = f"{count} loaded from a distillation's student"
            return inner, student_state, message
    return model, state, ''


def count_fitting(model: nn.Module, state: Mapping[str, Any]) -> int:
    """Counts the weights of a checkpoint that a model can take.

    Args:
        model (nn.Module): The model.
        state (Mapping[str, Any]): State dict of the checkpoint.

    Returns:
        int: Entries of a name and shape that the model has too, counters of
        batch norms apart.
    """
    own = model.state_dict()
    return sum(
        key in own
        and not key.endswith('num_batches_tracked')
        and getattr(value, 'shape', None) == getattr(own[key], 'shape', None)
        for key, value in state.items()
    )


def student_weights(
    state: Mapping[str, Any], name: str = 'student'
) -> OrderedDict[str, Any]:
    """Takes a student's weights out of a distillation checkpoint.

    Args:
        state (Mapping[str, Any]): State dict of the checkpoint.
        name (str): One of the peers of a ``MutualDistill``. Defaults to
            'student', the student, of several the first.

    Returns:
        OrderedDict[str, Any]: The weights by their names in the student
        alone; empty if it is not a distillation checkpoint, or has no such
        peer.
    """
    return _renamed(state, STUDENT if name == 'student' else f'peers.{name}.')


def _renamed(state: Mapping[str, Any], prefix: str) -> OrderedDict[str, Any]:
    """Takes what has a prefix, versions of the modules included."""
    taken = OrderedDict(
        (key.removeprefix(prefix), value)
        for key, value in state.items()
        if key.startswith(prefix)
    )
    taken._metadata = {  # type: ignore[attr-defined]
        f'{key}.'.removeprefix(prefix)[:-1]: value
        for key, value in getattr(state, '_metadata', {}).items()
        if f'{key}.'.startswith(prefix)
    }
    return taken


def _count(student: nn.Module, state: Mapping[str, Any]) -> str:
    own = student.state_dict()
    total = count_fitting(student, own)
    return f'{count_fitting(student, state)} of {total} weights'


def _refusal(model: BaseAlgorithm, owner: str) -> str:
    student = type(model.architecture).__name__
    if owner == 'teacher':
        return (
            'The checkpoint fits the teacher, not the student: set the key '
            'model.teacher_ckpt to it. load_from is for a checkpoint of this '
            f'distillation or of its student, model.architecture ({student}).'
        )
    return (
        'No weight of the checkpoint fits the distillation or its student, '
        f'model.architecture ({student}). Give load_from a checkpoint of '
        "one of the two; the teacher's goes into model.teacher_ckpt."
    )
