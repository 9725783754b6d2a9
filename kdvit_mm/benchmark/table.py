"""Tables of methods and seeds: their description, statistics and rendering."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

from prettytable import PrettyTable, TableStyle
from scipy.stats import t as student_t

from kdvit_mm.engine.recipe import (
    check_keys,
    check_kind,
    check_options,
    read_yaml,
)
from kdvit_mm.engine.stages import RecipeError

CONFIDENCE = 0.95
MISSED = '-'


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
        options (dict[str, Any]): Config options. Defaults to none.
    """

    name: str
    config: Path
    checkpoint: str | None = None
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
    """

    name: str
    config: Path
    teacher: str | None = None
    baseline: bool = False
    against: str | None = None
    published: str = ''
    source: str = ''
    options: dict[str, Any] = field(default_factory=dict)


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
    """

    file: Path
    title: str
    metric: Metric
    seeds: list[int]
    rows: list[Row]
    teachers: list[Teacher]
    columns: list[Column]
    data_root: str | None


Kind = TypeVar('Kind', Metric, Column, Teacher, Row)


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
    optional = {'data_root', 'options', 'teachers', 'columns'}
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
    known = {f.name for f in fields(kind)} - (set(preset) - {'options'})
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
        filled.append(Row(**{**vars(row), 'against': against}))
    return filled


def _check_table(table: Table) -> None:
    if not table.seeds or not all(type(seed) is int for seed in table.seeds):
        raise TableError(
            f'seeds must be a list of integers, got {table.seeds!r}.'
        )
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


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean (float): The mean.
        half_width (float | None): Half the width of its 95 % interval; None
            for a single seed.
        n (int): Number of seeds.
    """

    mean: float
    half_width: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % interval by Student's t distribution.

    Args:
        values (Sequence[float]): One value a seed.

    Returns:
        Estimate | None: None if there are no values.
    """
    n = len(values)
    if n == 0:
        return None
    half_width = None
    if n > 1:
        quantile = float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1))
        half_width = quantile * stdev(values) / math.sqrt(n)
    return Estimate(fmean(values), half_width, n)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> Estimate | None:
    """Mean difference of the seeds that both have, and its interval.

    Args:
        values (Mapping[int, float]): Value of a row by seed.
        baseline (Mapping[int, float]): Value of its baseline by seed.

    Returns:
        Estimate | None: None if they share no seed.
    """
    shared = sorted(values.keys() & baseline.keys())
    return estimate([values[seed] - baseline[seed] for seed in shared])


@dataclass
class Line:
    """A line of the finished table.

    Attributes:
        name (str): The row or teacher.
        seeds (int): How many seeds were to be run.
        values (dict[int, float]): The metric by seed. Defaults to none.
        columns (dict[str, dict[int, float]]): Further columns by name, by
            seed. Defaults to none.
        against (str | None): What it is compared with. Defaults to None.
        step_ratio (float | None): Time of its training step over its
            baseline's. Defaults to None.
        step_memory (float | None): MiB that its training step allocates.
            Defaults to None.
        published (str): The published figure. Defaults to ''.
        source (str): Where that was published. Defaults to ''.
        difference (Estimate | None): Paired difference to ``against``; set
            by :func:`compare`.
    """

    name: str
    seeds: int
    values: dict[int, float] = field(default_factory=dict)
    columns: dict[str, dict[int, float]] = field(default_factory=dict)
    against: str | None = None
    step_ratio: float | None = None
    step_memory: float | None = None
    published: str = ''
    source: str = ''
    difference: Estimate | None = None

    @property
    def mean(self) -> Estimate | None:
        """The metric over seeds."""
        return estimate([*self.values.values()])

    def column(self, name: str) -> Estimate | None:
        """A further column over seeds."""
        return estimate([*self.columns.get(name, {}).values()])


def compare(lines: Sequence[Line]) -> None:
    """Sets each line's paired difference to the line it is compared with."""
    by_name = {line.name: line for line in lines}
    for line in lines:
        if line.against is not None:
            line.difference = paired_difference(
                line.values, by_name[line.against].values
            )


def _show(value: Estimate | None, sign: str = '') -> str:
    if value is None:
        return MISSED
    text = f'{value.mean:{sign}.2f}'
    if value.half_width is not None:
        text += f' ± {value.half_width:.2f}'
    return text


def _show_difference(line: Line) -> str:
    text = _show(line.difference, '+')
    pairs = line.difference.n if line.difference else 0
    # Seeds may be missing on either side.
    return f'{text} ({pairs} pairs)' if 0 < pairs < line.seeds else text


def render_markdown(
    table: Table, lines: Sequence[Line], facts: Mapping[str, str]
) -> str:
    """Renders a table as Markdown.

    Args:
        table (Table): What was run.
        lines (Sequence[Line]): Its lines.
        facts (Mapping[str, str]): What is said above the table, such as the
            command that made it.

    Returns:
        str: A heading, the facts and the table. Columns that no line has a
        value for are left out.
    """
    columns: dict[str, list[str]] = {
        'method': [line.name for line in lines],
        table.metric.name: [_show(line.mean) for line in lines],
        f'Δ {table.metric.name}': [_show_difference(line) for line in lines],
    }
    for column in table.columns:
        columns[column.name] = [
            _show(line.column(column.name)) for line in lines
        ]
    further = {
        'step time ratio': [_number(line.step_ratio, '.2f') for line in lines],
        'step MiB': [_number(line.step_memory, '.0f') for line in lines],
        'published': [line.published or MISSED for line in lines],
        'source': [line.source or MISSED for line in lines],
    }
    columns |= {
        name: cells
        for name, cells in further.items()
        if set(cells) != {MISSED}
    }
    columns['n'] = [
        f'{len(line.values)}'
        if len(line.values) == line.seeds
        else f'{len(line.values)}/{line.seeds}'
        for line in lines
    ]
    pretty = PrettyTable()
    for name, cells in columns.items():
        pretty.add_column(name, [cell.replace('|', '\\|') for cell in cells])
    pretty.align = 'r'
    for name in ('method', 'source'):
        if name in columns:
            pretty.align[name] = 'l'
    pretty.set_style(TableStyle.MARKDOWN)
    said = '\n'.join(f'- {name}: {fact}' for name, fact in facts.items())
    return f'# {table.title}\n\n{said}\n\n{pretty}\n'


def _number(value: float | None, form: str) -> str:
    return MISSED if value is None else f'{value:{form}}'


def render_csv(table: Table, lines: Sequence[Line]) -> str:
    """Renders a table as CSV, with plain numbers and all columns."""
    rows = []
    for line in lines:
        row: dict[str, Any] = {'method': line.name}
        row |= _flat(table.metric.name, line.mean)
        row |= _flat(f'difference of {table.metric.name}', line.difference)
        row['against'] = line.against
        for column in table.columns:
            row |= _flat(column.name, line.column(column.name))
        row['step time ratio'] = line.step_ratio
        row['step MiB'] = line.step_memory
        row['published'], row['source'] = line.published, line.source
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(name: str, value: Estimate | None) -> dict[str, float | None]:
    return {
        name: value.mean if value else None,
        f'{name} ±': value.half_width if value else None,
        f'{name} n': value.n if value else 0,
    }


def render_json(
    table: Table, lines: Sequence[Line], facts: Mapping[str, str]
) -> str:
    """Renders a table as JSON, with the value of every seed."""
    content = {
        'title': table.title,
        'facts': dict(facts),
        'metric': vars(table.metric),
        'seeds': table.seeds,
        'lines': [
            vars(line)
            | {
                'mean': line.mean and vars(line.mean),
                'difference': line.difference and vars(line.difference),
            }
            for line in lines
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'
