"""Recipes: files that describe stages."""

import re
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from kdvit_mm.engine.stages import RecipeError, Stage, read


def read_recipe(
    file: str | Path, work_dir: str | Path, targets: Sequence[str | Path] = ()
) -> list[Stage]:
    """Reads and checks a recipe.

    Args:
        file (str | Path): The YAML file; paths in it are relative to it.
        work_dir (str | Path): Each stage gets a folder in it.
        targets (Sequence[str | Path]): Stages to run, by name. A config is a
            target, too: a stage with the name of its file. Defaults to all
            stages of the recipe.

    Returns:
        list[Stage]: The targets and what they need, each stage after those
        that it needs.

    Raises:
        RecipeError: If a key is missing, unknown or of the wrong kind, a
            config cannot be read or names a stage that there is not, or
            stages need each other.
    """
    file = Path(file)
    try:
        given = read_yaml(file)
        check_keys('the recipe', given, {'stages'}, {'stages'})
        check_kind('stages', given['stages'], dict)
        stages = {
            str(name): _make_stage(str(name), entry, file, Path(work_dir))
            for name, entry in given['stages'].items()
        }
        wanted = {_find(str(t), stages, Path(work_dir)) for t in targets}
        for stage in stages.values():
            stage.connect(stages)
        return _in_order(stages.values(), wanted or {*stages.values()})
    except RecipeError as error:
        raise RecipeError(f'{file}: {error}') from None


def _make_stage(name: str, given: Any, file: Path, work_dir: Path) -> Stage:
    where = f'stages.{name}'
    if not re.fullmatch(r'[\w.-]*\w[\w.-]*', name):
        raise RecipeError(
            f'{where} is not a name for a folder: use letters, digits, '
            '"_", "-" and ".".'
        )
    known = {'config', 'cfg_options', 'checkpoint', 'export'}
    check_keys(where, given, {'config'}, known)
    for key, values in (
        ('checkpoint', ('last', 'best')),
        ('export', (True, False)),
    ):
        if given.get(key, values[0]) not in values:
            raise RecipeError(
                f'{where}.{key} must be one of {values}, got {given[key]!r}.'
            )
    stage = Stage(
        name=name,
        config=file.parent / str(given['config']),
        folder=work_dir / name,
        options=check_options(
            f'{where}.cfg_options', given.get('cfg_options')
        ),
        keeps=given.get('checkpoint', 'last'),
        exports=given.get('export', False),
    )
    _check_config(where, stage)
    return stage


def _check_config(where: str, stage: Stage) -> None:
    if not stage.config.is_file():
        raise RecipeError(f'{where}.config: there is no file {stage.config}.')
    try:
        cfg = read(stage.config, stage.options)
    except Exception as error:
        raise RecipeError(
            f'{where}: {stage.config} cannot be read with its options, '
            f'{type(error).__name__}: {error}'
        ) from error
    hooks = cfg.get('default_hooks') or {}
    metric = (hooks.get('checkpoint') or {}).get('save_best')
    if stage.keeps == 'best' and not isinstance(metric, str):
        raise RecipeError(
            f'{where}.checkpoint is "best": its config has to say of what, by '
            f'one metric in default_hooks.checkpoint.save_best, not {metric}.'
        )
    if stage.exports and 'architecture' not in (cfg.get('model') or {}):
        raise RecipeError(
            f'{where}.export: {stage.config} has no model.architecture, it '
            'does not distil a student.'
        )


def _find(target: str, stages: dict[str, Stage], work_dir: Path) -> Stage:
    """A stage by its name or config, which may become a further stage."""
    if target in stages:
        return stages[target]
    config = Path(target)
    if not config.is_file():
        raise RecipeError(
            f'"{target}" is neither one of the stages {", ".join(stages)} nor '
            'a config.'
        )
    stage = Stage(config.stem, config, work_dir / config.stem)
    _check_config(f'stages.{stage}', stage)
    known = stages.setdefault(stage.name, stage)
    if not known.config.samefile(config):
        raise RecipeError(
            f'{config} would be a second stage "{stage}", besides that of '
            f'{known.config}.'
        )
    return known


def _in_order(stages: Iterable[Stage], wanted: set[Stage]) -> list[Stage]:
    """Wanted stages and what they need, each after those that it needs."""
    needs = {
        stage: [need.stage for need in stage.needs.values()]
        for stage in stages
    }
    try:
        order = [*TopologicalSorter(needs).static_order()]
    except CycleError as error:
        raise RecipeError(
            'stages need each other: '
            f'{" <- ".join(str(stage) for stage in error.args[1])}.'
        ) from None
    chosen = set(wanted)
    for stage in reversed(order):
        if stage in chosen:
            chosen.update(needs[stage])
    return [stage for stage in order if stage in chosen]


def read_yaml(file: Path) -> Any:
    """Reads a YAML file.

    Args:
        file (Path): The file.

    Returns:
        Any: Its content.

    Raises:
        RecipeError: If it cannot be read.
    """
    try:
        return yaml.safe_load(file.read_text())
    except OSError as error:
        raise RecipeError(f'it cannot be read: {error.strerror}.') from None
    except yaml.YAMLError as error:
        raise RecipeError(f'it is not valid YAML: {error}') from None


def check_keys(
    where: str, given: Any, required: set[str], known: set[str]
) -> None:
    """Checks the keys of a mapping.

    Args:
        where (str): Its place in the file.
        given (Any): What is there.
        required (set[str]): Keys that it must have.
        known (set[str]): Keys that it may have.

    Raises:
        RecipeError: If it is not a mapping, or a key is missing or unknown.
    """
    check_kind(where, given, dict)
    for key in sorted(required - set(given)):
        raise RecipeError(f'{where} has no key "{key}".')
    for key in sorted(map(str, set(given) - known)):
        raise RecipeError(
            f'{where} has the unknown key "{key}"; known are '
            f'{", ".join(sorted(known))}.'
        )


def check_kind(where: str, given: Any, kind: type) -> None:
    """Checks what kind of value is given.

    Args:
        where (str): Its place in the file.
        given (Any): The value.
        kind (type): What it must be.

    Raises:
        RecipeError: If it is something else.
    """
    if not isinstance(given, kind):
        raise RecipeError(f'{where} must be a {kind.__name__}, got {given!r}.')


def check_options(where: str, given: Any) -> dict[str, Any]:
    """Checks config options.

    Args:
        where (str): Their place in the file.
        given (Any): What is there, None for nothing.

    Returns:
        dict[str, Any]: Values by dotted keys.

    Raises:
        RecipeError: If ``--cfg-options`` cannot take them.
    """
    check_kind(where, given or {}, dict)
    for key, value in (given or {}).items():
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, dict) for item in items):
            raise RecipeError(
                f'{where}."{key}" has a dictionary as value, which '
                '--cfg-options cannot take: write dotted keys, or a config '
                'of its own.'
            )
    return given or {}
