"""Tables of methods and seeds: what their files describe."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from kdvit_mm.engine.recipe import (
    check_keys,
    check_kind,
    check_options,
    read_yaml,
)
from kdvit_mm.engine.stages import RecipeError

# Of fields that no table file gives.
DERIVED: dict[str, Any] = {'derived': True}


class TableError(RecipeError):
    """A mistake in a table file; the text is for its writer."""


@dataclass(frozen=True)
class Metric:
    """What the methods are compared by.

    Attributes:
        name (str): Its name in the table.
        key (str): Its key in the log of a validation.
        scale (float): What the logged value is multiplied by. Defaults to 1.
    """

    name: str
    key: str
    scale: float = 1.0


@dataclass(frozen=True)
class Column:
    """A further column, taken from a run's log.

    Attributes:
        name (str): Its heading.
        key (str): Logged key.
        reduce (str): 'mean' of all logged values or the 'last' one. Defaults
            to 'last'.
        scale (float): What the value is multiplied by. Defaults to 1.
    """

    name: str
    key: str
    reduce: str = 'last'
    scale: float = 1.0

    def take(self, records: Sequence[Mapping[str, float]]) -> float | None:
        """Reads the column's value from a log.

        Args:
            records (Sequence[Mapping[str, float]]): The log, oldest first.

        Returns:
            float | None: The value; None if its key was never logged.
        """
        values = [r[self.key] for r in records if self.key in r]
        if not values:
            return None
        value = fmean(values) if self.reduce == 'mean' else values[-1]
        return self.scale * value


@dataclass(frozen=True)
class Teacher:
    """A model that rows are distilled from.

    Attributes:
        name (str): Its name.
        config (Path): Its config.
        checkpoint (str | None): File or URL of its weights; None to train
            it. Defaults to None.
        patience (int | None): It is trained until so many validations in a
            row gain less than 0.1, and its best checkpoint teaches. Defaults
            to None, to the end of its schedule, and the last one.
        options (dict[str, Any]): Config options. Defaults to none.
    """

    name: str
    config: Path
    checkpoint: str | None = None
    patience: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        name (str): Its name.
        config (Path): Its config.
        teacher (str | None): Name of its teacher. Defaults to None.
        baseline (bool): Whether the rows below are compared with it. Defaults
            to False.
        against (str | None): Name of the row that it is compared with.
            Defaults to None, the nearest baseline above.
        published (str): The published figure. Defaults to ''.
        source (str): Where that was published. Defaults to ''.
        options (dict[str, Any]): Config options. Defaults to none.
        equal_time (bool): Whether it is a baseline that is trained for as
            long as the slowest method. Set by the tool.
        factor (float | None): What the tool multiplied the weights of its
            distill losses by; None if they have not been chosen yet.
    """

    name: str
    config: Path
    teacher: str | None = None
    baseline: bool = False
    against: str | None = None
    published: str = ''
    source: str = ''
    options: dict[str, Any] = field(default_factory=dict)
    equal_time: bool = field(default=False, metadata=DERIVED)
    factor: float | None = field(default=1.0, metadata=DERIVED)


@dataclass(frozen=True)
class Grid:
    """Weights that are tried for every method before its seeds are run.

    Attributes:
        seed (int): Seed of these trials, which is none of the table's.
        factors (list[float]): What the weights of all of a row's distill
            losses are multiplied by.
    """

    seed: int
    factors: list[float]


@dataclass(frozen=True)
class Table:
    """What a table file describes.

    Attributes:
        file (Path): The file.
        title (str): Its title.
        metric (Metric): What the rows are compared by.
        seeds (list[int]): Seeds of every row.
        rows (list[Row]): The methods.
        teachers (list[Teacher]): Their teachers.
        columns (list[Column]): Further columns.
        data_root (str | None): Folder of the data set, if it is not the
            configs' own.
        results (Path | None): Folder of what is kept of the table, if it is
            there. Defaults to None, the output folder.
        equal_time (bool): Whether each baseline has a second row, trained
            for as long as its slowest method. Defaults to False.
        min_gap (float): How far a teacher has to be above the baseline of
            its rows. Defaults to 10.
        weights_grid (Grid | None): Weights that are tried. Defaults to None.
    """

    file: Path
    title: str
    metric: Metric
    seeds: list[int]
    rows: list[Row]
    teachers: list[Teacher]
    columns: list[Column]
    data_root: str | None = None
    results: Path | None = None
    equal_time: bool = False
    min_gap: float = 10
    weights_grid: Grid | None = None


Kind = TypeVar('Kind', Metric, Column, Teacher, Row, Grid)


def read_table(file: str | Path) -> Table:
    """Reads and checks a table file.

    Args:
        file (str | Path): The YAML file; paths in it are relative to it.

    Returns:
        Table: What it describes.

    Raises:
        TableError: If a key is missing, unknown or of the wrong kind, a name
            is given twice or stands for nothing, or a config is not there.
    """
    file = Path(file)
    required = {'title', 'metric', 'seeds', 'rows'}
    optional = {'data_root', 'options', 'teachers', 'columns', 'results'}
    optional |= {'equal_time', 'min_gap', 'weights_grid'}
    try:
        given = read_yaml(file)
        check_keys('the table', given, required, required | optional)
        check_kind('seeds', given['seeds'], list)
        check_kind('rows', given['rows'], list)
        shared = check_options('options', given.get('options'))
        teachers = [
            _parse(f'teachers.{name}', Teacher, entry, file, name=str(name))
            for name, entry in (given.get('teachers') or {}).items()
        ]
        rows = [
            _parse(f'rows[{i}]', Row, entry, file, options=shared)
            for i, entry in enumerate(given['rows'])
        ]
        data_root = given.get('data_root')
        results = given.get('results')
        grid = given.get('weights_grid')
        table = Table(
            file=file,
            title=str(given['title']),
            metric=_parse('metric', Metric, given['metric'], file),
            seeds=given['seeds'],
            rows=_with_baselines(rows),
            teachers=teachers,
            columns=[
                _parse(f'columns[{i}]', Column, entry, file)
                for i, entry in enumerate(given.get('columns') or [])
            ],
            data_root=data_root and str(file.parent / data_root),
            results=results and file.parent / results,
            equal_time=given.get('equal_time', False),
            min_gap=given.get('min_gap', Table.min_gap),
            weights_grid=grid and _parse('weights_grid', Grid, grid, file),
        )
        _check_table(table)
    except RecipeError as error:
        raise TableError(f'{file}: {error}') from None
    return table


def reference(value: Any) -> str | None:
    """Name in an option ``'{name}'``, which stands for a checkpoint."""
    found = (
        re.fullmatch(r'\{(.+)\}', value) if isinstance(value, str) else None
    )
    return found[1] if found else None


def slug(name: str) -> str:
    """Makes a folder name of a row's name."""
    return re.sub(r'[^a-z0-9.]+', '-', name.lower()).strip('-.')


def _parse(
    where: str, kind: type[Kind], given: Any, file: Path, **preset: Any
) -> Kind:
    """Makes a ``kind`` of a mapping whose keys are its fields."""
    if isinstance(given, dict) and 'name' in given:
        where = f'{where} ("{given["name"]}")'
    known = {f.name for f in fields(kind) if f.metadata != DERIVED}
    known -= set(preset) - {'options'}
    required = {
        f.name
        for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING
    } & known
    check_keys(where, given, required, known)
    values = preset | given
    for key in ('name', 'published', 'source'):
        if key in values:
            values[key] = str(values[key] or '')
    if 'scale' in values and not isinstance(values['scale'], int | float):
        raise TableError(f'{where}.scale must be a number.')
    if 'options' in known:
        own = check_options(f'{where}.options', given.get('options'))
        values['options'] = preset.get('options', {}) | own
    if 'config' in known:
        values['config'] = file.parent / str(given['config'])
        if not values['config'].is_file():
            raise TableError(
                f'{where}.config: there is no file {values["config"]}.'
            )
    checkpoint = values.get('checkpoint')
    if checkpoint and ':' not in checkpoint:
        values['checkpoint'] = str(file.parent / checkpoint)
    if values.get('reduce', 'last') not in ('mean', 'last'):
        raise TableError(
            f'{where}.reduce must be mean or last, got {values["reduce"]!r}.'
        )
    if not isinstance(values.get('patience', 1) or 1, int):
        raise TableError(
            f'{where}.patience must be a number of validations, got '
            f'{values["patience"]!r}.'
        )
    return kind(**values)


def _with_baselines(rows: list[Row]) -> list[Row]:
    """Fills in the nearest baseline above where nothing is given."""
    baseline = None
    filled = []
    for row in rows:
        against = row.against
        if row.baseline:
            baseline = row.name
        elif against is None:
            against = baseline
        if against is None and not row.baseline:
            raise TableError(
                f'row "{row.name}" has no baseline: put a row with '
                '"baseline: true" above it, or name one with "against".'
            )
        filled.append(replace(row, against=against))
    return filled


def _check_table(table: Table) -> None:
    if not table.seeds or not all(type(seed) is int for seed in table.seeds):
        raise TableError(
            f'seeds must be a list of integers, got {table.seeds!r}.'
        )
    check_kind('equal_time', table.equal_time, bool)
    if not isinstance(table.min_gap, int | float):
        raise TableError(f'min_gap must be a number, got {table.min_gap!r}.')
    if table.weights_grid:
        _check_grid(table, table.weights_grid)
    if not table.rows:
        raise TableError('rows is empty.')
    if len(set(table.seeds)) < len(table.seeds):
        raise TableError(f'seeds has a seed twice: {table.seeds}.')
    entries: list[Teacher | Row] = [*table.teachers, *table.rows]
    folders: dict[str, str] = {}
    for entry in entries:
        folder = slug(entry.name)
        if not folder:
            raise TableError(f'the name {entry.name!r} has no letters.')
        if folder in folders:
            raise TableError(
                f'the names "{folders[folder]}" and "{entry.name}" of rows '
                'and teachers are the same, or would share the folder '
                f'"{folder}": change one.'
            )
        folders[folder] = entry.name
    above: list[str] = []
    for entry in entries:
        for key, value in entry.options.items():
            name = reference(value)
            if name and name not in above:
                raise TableError(
                    f'"{entry.name}": options."{key}" names the checkpoint '
                    f'of "{name}", but above it there are only {above}.'
                )
        above.append(entry.name)
    teachers = {teacher.name for teacher in table.teachers}
    rows = {row.name for row in table.rows}
    for row in table.rows:
        for key, value, known in (
            ('teacher', row.teacher, teachers),
            ('against', row.against, rows - {row.name}),
        ):
            if value is not None and value not in known:
                raise TableError(
                    f'row "{row.name}": {key} names "{value}", but there are '
                    f'only {sorted(known)}.'
                )


def _check_grid(table: Table, grid: Grid) -> None:
    if type(grid.seed) is not int or grid.seed in table.seeds:
        raise TableError(
            'weights_grid.seed must be an integer that is not in seeds '
            f'{table.seeds}, got {grid.seed!r}: weights that are chosen with '
            "a table's seeds favour the methods."
        )
    check_kind('weights_grid.factors', grid.factors, list)
    if not grid.factors or not all(
        isinstance(factor, int | float) and factor > 0
        for factor in grid.factors
    ):
        raise TableError(
            'weights_grid.factors must be a list of numbers above 0, got '
            f'{grid.factors!r}.'
        )
