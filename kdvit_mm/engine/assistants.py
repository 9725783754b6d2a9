"""Checks of chains of distillations."""

from collections.abc import Iterable

from mmengine.config import Config
from mmengine.registry import DefaultScope

from kdvit_mm.engine.stages import RecipeError, Stage, read
from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.models.utils.student_config import is_distillation
from kdvit_mm.registry import MODELS


def small_assistants(stages: Iterable[Stage]) -> list[str]:
    """Finds assistants that have fewer parameters than their students.

    An assistant is the student of one stage and the teacher of another. Its
    models are built to count their parameters.

    Args:
        stages (Iterable[Stage]): The stages.

    Returns:
        list[str]: A warning for each.

    Raises:
        RecipeError: If a model cannot be built.
    """
    warnings = []
    for stage in stages:
        need = stage.needs.get('model.teacher_ckpt')
        cfg = read(stage.config, stage.options)
        if need is None or not (
            is_distillation(cfg)
            and is_distillation(read(need.stage.config, need.stage.options))
        ):
            continue
        student = _parameters(stage, cfg, 'architecture')
        assistant = _parameters(stage, cfg, 'teacher')
        if assistant < student:
            warnings.append(
                f'The assistant of "{need.stage}" has {assistant:,} '
                f'parameters, fewer than its student in "{stage}" with '
                f'{student:,}. An assistant is meant to lie between teacher '
                'and student: look at their order.'
            )
    return warnings


def _parameters(stage: Stage, cfg: Config, side: str) -> int:
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            model = MODELS.build(resolve_cfg_path(cfg.model[side]))
    except Exception as error:
        raise RecipeError(
            f'"{stage}": model.{side} cannot be built, '
            f'{type(error).__name__}: {error}'
        ) from error
    return sum(parameter.numel() for parameter in model.parameters())
