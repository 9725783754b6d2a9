"""Hooks and optimiser constructors work on the student of a distillation.

Breaks: hooks and optimiser constructors that reach into ``runner.model`` find
mmrazor's algorithm instead of the student. YOLOXModeSwitchHook stops with "no
attribute bbox_head" epochs before the end of a run, NumClassCheckHook refuses
a teacher with other classes, layer-wise learning rates crash or differ from
those of the student alone, as all names begin with "architecture.".
Since: mmrazor 1.0.
Can go: when mmengine asks the model which part of it hooks and constructors
are for.

Only runners of mmrazor's ``SingleTeacherDistill``, this package's algorithms
and their subclasses are affected. The work is done in
:mod:`kdvit_mm.engine.student_view`.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Always: no version of mmengine or mmrazor does it."""
    return True


def apply(module: ModuleType) -> None:
    """Patches the runner and every module that has a patched name."""
    if module.__name__ == 'mmengine.runner.runner':
        _patch_call_hook(module.Runner)  # type: ignore[attr-defined]
        for name in (
            'turn_on_activation_checkpointing',
            'turn_on_efficient_conv_bn_eval',
        ):
            setattr(module, name, _on_student(getattr(module, name)))
    # Patched already if the module took the name from a patched one.
    if not hasattr(module.build_optim_wrapper, '__wrapped__'):  # type: ignore[attr-defined]
        module.build_optim_wrapper = _patched_build(module.build_optim_wrapper)  # type: ignore[attr-defined]


def _patch_call_hook(runner_class: Any) -> None:
    call_hook = runner_class.call_hook

    @functools.wraps(call_hook)
    def call_hook_on_student(self: Any, fn_name: str, **kwargs: Any) -> None:
        from kdvit_mm.engine import student_view

        if student_view.distillation_of(self.model) is None:
            call_hook(self, fn_name, **kwargs)
        else:
            student_view.call_hook(self, fn_name, **kwargs)

    runner_class.call_hook = call_hook_on_student


def _patched_build(build: Callable) -> Callable:
    @functools.wraps(build)
    def build_optim_wrapper(model: Any, cfg: dict) -> Any:
        from kdvit_mm.engine import student_view

        algorithm = student_view.distillation_of(model)
        if algorithm is None:
            return build(model, cfg)
        return student_view.build_optim_wrapper(build, algorithm, cfg)

    return build_optim_wrapper


def _on_student(turn_on: Callable) -> Callable:
    """Applies a runner's option for named modules to the student's."""

    @functools.wraps(turn_on)
    def turn_on_in_student(model: Any, modules: list[str] | str) -> None:
        from kdvit_mm.engine import student_view

        algorithm = student_view.distillation_of(model)
        parts = [model]
        if algorithm is not None:
            names = [modules] if isinstance(modules, str) else modules
            key = turn_on.__name__.removeprefix('turn_on_')
            student_view.refuse_names_in_algorithm(algorithm, names, key)
            parts = [*student_view.students_of(algorithm).values()]
        for part in parts:
            turn_on(part, modules)

    return turn_on_in_student
