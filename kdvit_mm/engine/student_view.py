"""Lets what mmengine's runner does to a model be done to the student.

Hooks and optimiser constructors are written for the plain model: they read
``runner.model.bbox_head``, check every module's number of classes or take a
parameter's layer from its name. In a distillation ``runner.model`` is the
algorithm with teacher, distiller and student. The functions here hand the
student to them, as if it were trained alone, or refuse what cannot work. They
are called by the compatibility patch ``student_view``;
``docs/hooks_and_optimisers.md`` lists every hook and constructor.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmrazor.models.algorithms import SingleTeacherDistill
from torch import nn

from kdvit_mm.engine.hooks.distill_schedule_hook import (
    refuse_without_student_loss,
)
from kdvit_mm.engine.optim import EachStudentConstructor
from kdvit_mm.engine.optim.each_student import add_rest
from kdvit_mm.engine.returning_images import NEVER_RETURNS, returning_images
from kdvit_mm.models.algorithms.self_taught import SelfTaught
from kdvit_mm.models.losses.relation.crd import CRDLoss
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.students import students_of
from kdvit_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

#: An algorithm with a student and a distiller.
Distillation: TypeAlias = SingleTeacherDistill | SelfTaught

# Hooks that see the student as ``runner.model``, as package and class, so
# that no package has to be installed. Subclasses count.
STUDENT_HOOKS = frozenset(
    {
        'mmdet.NumClassCheckHook',
        'mmdet.SetEpochInfoHook',
        'mmdet.SyncNormHook',
        'mmdet.YOLOXModeSwitchHook',
        'mmpretrain.ClassNumCheckHook',
        'mmpretrain.DenseCLHook',
        'mmpretrain.PreciseBNHook',
        'mmpretrain.PrepareProtoBeforeValLoopHook',
        'mmpretrain.SetAdaptiveMarginsHook',
        'mmpretrain.SwAVHook',
        'mmpretrain.SwitchRecipeHook',
        'mmpretrain.WarmupParamHook',
    }
)
# Those of them that may be called for one student after another.
REPEATABLE = frozenset(
    {
        'mmdet.NumClassCheckHook',
        'mmdet.SetEpochInfoHook',
        'mmdet.SyncNormHook',
        'mmpretrain.ClassNumCheckHook',
    }
)
# Hooks and loops that cannot work in a distillation, and what to do.
_RETRIEVAL = (
    'it needs a retriever as model. Validate and test the exported student '
    '(tools/model_converters/export_student.py) with its own config instead.'
)
REFUSED = {
    'mmdet.MeanTeacherHook': (
        'it would overwrite the teacher with a moving average of the '
        'student. Remove it from custom_hooks; for a moving average of the '
        "student use dict(type='EMAHook')."
    ),
    'mmdet.TeacherStudentValLoop': (
        'it is for semi-supervised detectors. Use '
        "val_cfg = dict(type='ValLoop'); the teacher does not change and is "
        'tested with its own config.'
    ),
    'mmpretrain.RetrievalValLoop': _RETRIEVAL,
    'mmpretrain.RetrievalTestLoop': _RETRIEVAL,
}


def distillation_of(model: nn.Module) -> Distillation | None:
    """Finds the distillation algorithm in a runner's model.

    Args:
        model (nn.Module): The model, possibly in a wrapper such as
            ``MMDistributedDataParallel`` or for test-time augmentation.

    Returns:
        SingleTeacherDistill | SelfTaught | None: The algorithm, or None if the
        model is something else.
    """
    inner = unwrapped(model)
    return inner if isinstance(inner, Distillation) else None


@contextmanager
def student_view(runner: Runner, student: nn.Module) -> Iterator[None]:
    """Makes ``runner.model`` a student of its distillation for a while.

    The student shows the data preprocessor of the algorithm, through which
    the batches pass, so that changes of it take effect.

    Args:
        runner (Runner): A runner whose model is a distillation.
        student (nn.Module): The student.
    """
    model = runner.model
    algorithm = distillation_of(model)
    assert algorithm is not None
    own, used = student.data_preprocessor, algorithm.data_preprocessor
    student.data_preprocessor = used
    runner.model = student
    try:
        yield
    finally:
        runner.model = model
        algorithm.data_preprocessor = student.data_preprocessor
        if own is not used:
            student.data_preprocessor = own


def call_hook(runner: Runner, fn_name: str, **kwargs: Any) -> None:
    """Calls all hooks of a distillation at one point of the loop.

    Args:
        runner (Runner): A runner whose model is a distillation.
        fn_name (str): The point, such as ``'before_train_epoch'``.
        **kwargs: Arguments of the hooks.

    Raises:
        ValueError: If a hook or loop cannot work in a distillation, or a
            distill loss or a strict cache not with the training set.
    """
    if fn_name == 'before_run':
        _refuse_what_cannot_work(runner)
    if fn_name == 'before_train':
        _check_data(runner)
    algorithm = distillation_of(runner.model)
    for hook in runner.hooks:
        if not hasattr(hook, fn_name):
            continue
        names = _names(type(hook))
        if (
            fn_name == 'before_train'
            and 'mmrazor.StopDistillHook' in names
            and hook.stop_epoch < runner.max_epochs
        ):
            refuse_without_student_loss(
                runner, hook, 'stop_epoch', hook.stop_epoch
            )
        views: list[AbstractContextManager] = [_explain(runner, hook)]
        if not STUDENT_HOOKS.isdisjoint(names):
            students = students_of(algorithm).values()
            views = [student_view(runner, student) for student in students]
        try:
            for view in views:
                with view:
                    getattr(hook, fn_name)(runner, **kwargs)
        except TypeError as error:
            raise TypeError(f'{error} in {hook}') from None


def build_optim_wrapper(
    build: Callable[[nn.Module, dict], OptimWrapper],
    algorithm: Distillation,
    cfg: dict,
) -> OptimWrapper:
    """Builds the optimiser of a distillation.

    Its groups are those that the configured constructor makes of each student
    alone. All other trainable parameters, such as those of connectors and
    losses, follow as one group with the base learning rate and weight decay.

    Args:
        build (Callable): mmengine's ``build_optim_wrapper``.
        algorithm (SingleTeacherDistill | SelfTaught): The distillation.
        cfg (dict): Config of the optimiser wrapper.

    Returns:
        OptimWrapper: The optimiser wrapper.

    Raises:
        ValueError: If ``cfg`` asks for several optimisers, or one of its
            ``custom_keys`` names a part of the algorithm.
    """
    several = [
        name
        for name, part in cfg.items()
        if isinstance(part, dict) and 'optimizer' in part
    ]
    custom_keys = (cfg.get('paramwise_cfg') or {}).get('custom_keys', {})
    refuse_names_in_algorithm(
        algorithm, custom_keys, 'optim_wrapper.paramwise_cfg.custom_keys'
    )
    constructor = cfg.get('constructor')
    if isinstance(constructor, str):
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(constructor)
    if constructor is EachStudentConstructor:
        return build(algorithm, cfg)
    students = students_of(algorithm)
    wrappers = [] if several else [build(s, cfg) for s in students.values()]
    if not wrappers or isinstance(wrappers[0], OptimWrapperDict):
        raise ValueError(
            'optim_wrapper has several optimisers'
            f'{" (" + ", ".join(several) + ")" if several else ""}, but a '
            f'{type(algorithm).__name__} is trained by one. Set '
            "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(...)) "
            'with a constructor that builds a single optimiser'
            + (
                ", or constructor='kdvit_mm.EachStudentConstructor'."
                if len(students) > 1
                else '.'
            )
        )
    wrapper, *others = wrappers
    for other in others:
        for group in other.optimizer.param_groups:
            wrapper.optimizer.add_param_group(group)
    add_rest(wrapper, algorithm, students)
    return wrapper


def refuse_names_in_algorithm(
    algorithm: Distillation, names: Iterable[str], key: str
) -> None:
    """Refuses names that begin with a part of the algorithm.

    Args:
        algorithm (SingleTeacherDistill | SelfTaught): The distillation.
        names (Iterable[str]): Names of modules or parameters.
        key (str): The config key that they are from.

    Raises:
        ValueError: If a name begins with ``architecture``, ``distiller``,
            ``teacher`` or another part that the student does not have.
    """
    parts = {name for name, _ in algorithm.named_children()} | {'teacher'}
    parts -= {name for name, _ in algorithm.student.named_children()}
    for name in names:
        part, _, inner = name.partition('.')
        if part not in parts:
            continue
        if part != 'architecture':
            advice = (
                'remove it; trainable parameters outside of the student have '
                'the base learning rate and weight decay'
            )
        elif inner:
            advice = f'write "{inner}"'
        else:
            advice = 'remove it and set the values in optim_wrapper.optimizer'
        raise ValueError(
            f'{key}: "{name}" matches nothing, because names are those of '
            f'the student alone: {advice}.'
        )


def _names(cls: type) -> frozenset[str]:
    """Names of a class and its bases, as package and class."""
    return frozenset(
        f'{base.__module__.partition(".")[0]}.{base.__name__}'
        for base in cls.__mro__
    )


def _refuse_what_cannot_work(runner: Runner) -> None:
    several = len(students_of(distillation_of(runner.model))) > 1
    for hook in runner.hooks if several else ():
        names = _names(type(hook))
        if STUDENT_HOOKS & names and not REPEATABLE & names:
            raise ValueError(
                f'{type(hook).__name__} changes one model and cannot be used '
                'with several students. Remove it from custom_hooks.'
            )
    for thing in (*runner.hooks, runner._val_loop, runner._test_loop):
        for name in REFUSED.keys() & _names(type(thing)):
            raise ValueError(
                f'{type(thing).__name__} cannot be used in a distillation: '
                f'{REFUSED[name]}'
            )


def _check_data(runner: Runner) -> None:
    algorithm = distillation_of(runner.model)
    assert algorithm is not None
    for part in algorithm.distiller.modules():
        if isinstance(part, CRDLoss):
            part.check_dataset(runner.train_dataloader.dataset)
    for lean in getattr(algorithm, 'lean_teachers', ()):
        if (
            lean.cache is not None
            and lean.cache.strict
            and not any(
                returning_images(
                    runner.train_dataloader, algorithm.data_preprocessor, lean
                )
            )
        ):
            raise ValueError(f'cache.strict: {NEVER_RETURNS}')


@contextmanager
def _explain(runner: Runner, hook: Hook) -> Iterator[None]:
    """Explains why a hook does not find a part of the student."""
    try:
        yield
    except AttributeError as error:
        algorithm = distillation_of(runner.model)
        student = getattr(algorithm, 'student', None)
        if error.obj is not algorithm or not hasattr(
            student, error.name or ''
        ):
            raise
        raise AttributeError(
            f'{type(hook).__name__} looks for "{error.name}" in '
            f'runner.model, which is a {type(algorithm).__name__} here; its '
            f'student has "{error.name}". Let the hook read '
            '"runner.model.student" (under distributed training '
            '"runner.model.module.student").'
        ) from error
