"""The finished table: its lines, what is said of them, and its files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from prettytable import PrettyTable, TableStyle

from kdvit_mm.benchmark.cells import Cell, read_metric
from kdvit_mm.benchmark.statistics import (
    Estimate,
    estimate,
    gained_late,
    judge,
    paired_difference,
)
from kdvit_mm.benchmark.table import Row, Table, Teacher

MISSED = '-'
# Share of the final metric that the last quarter of a training may gain.
CONVERGED = 0.1


@dataclass
class Line:
    """A line of the finished table.

    Attributes:
        name (str): The row or teacher.
        seeds (int): How many seeds were to be run.
        values (dict[int, float]): The metric by seed. Defaults to none.
        columns (dict[str, dict[int, float]]): Further columns by name, by
            seed. Defaults to none.
        curves (dict[int, list[tuple[float, float]]]): Step and metric of the
            validations, by seed. Defaults to none.
        seconds (dict[int, float]): How long was trained, by seed. Defaults to
            none.
        against (str | None): What it is compared with. Defaults to None.
        rival (str | None): The row of equal time that it is compared with,
            too. Defaults to None.
        teacher (str | None): Its teacher; of a row of equal time, that of
            the methods. Defaults to None.
        patience (int | None): How many validations in a row had to gain
            nothing to end the training. Defaults to None.
        step_ratio (float | None): Time of its training step over its
            baseline's. Defaults to None.
        step_memory (float | None): MiB that its training step allocates.
            Defaults to None.
        published (str): The published figure. Defaults to ''.
        source (str): Where that was published. Defaults to ''.
        difference (Estimate | None): Paired difference to ``against``; set,
            as all below, by :func:`compare`.
        verdict (str): Whether that is more than chance.
        rival_difference (Estimate | None): Paired difference to ``rival``.
        rival_verdict (str): Whether that is more than chance.
        gap_closed (Estimate | None): ``difference`` in per cent of the
            teacher's distance to ``against``.
    """

    name: str
    seeds: int
    values: dict[int, float] = field(default_factory=dict)
    columns: dict[str, dict[int, float]] = field(default_factory=dict)
    curves: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    against: str | None = None
    rival: str | None = None
    teacher: str | None = None
    patience: int | None = None
    step_ratio: float | None = None
    step_memory: float | None = None
    published: str = ''
    source: str = ''
    difference: Estimate | None = None
    verdict: str = ''
    rival_difference: Estimate | None = None
    rival_verdict: str = ''
    gap_closed: Estimate | None = None

    @property
    def mean(self) -> Estimate | None:
        """The metric over seeds."""
        return estimate([*self.values.values()])

    @property
    def gained_late(self) -> float | None:
        """Share of the metric that the last quarter gained, over seeds."""
        shares = [gained_late(curve) for curve in self.curves.values()]
        known = [share for share in shares if share is not None]
        return fmean(known) if known else None

    def column(self, name: str) -> Estimate | None:
        """A further column over seeds.

        Args:
            name (str): Its heading.

        Returns:
            Estimate | None: None if no seed has a value.
        """
        return estimate([*self.columns.get(name, {}).values()])


def make_lines(table: Table, cells: Sequence[Cell]) -> list[Line]:
    """Reads the results of all cells that have one.

    Args:
        table (Table): The table.
        cells (Sequence[Cell]): All of its cells.

    Returns:
        list[Line]: The teachers' lines, then the rows', compared.
    """
    scale = table.metric.scale
    lines = []
    entries: list[Teacher | Row] = [*table.teachers, *table.rows]
    for entry in entries:
        seeds = len(table.seeds) if isinstance(entry, Row) else 1
        line = Line(entry.name, seeds)
        for cell in (cell for cell in cells if cell.name == entry.name):
            record = cell.record(table)
            if record is None:
                continue
            line.values[cell.seed] = read_metric(table, record.metrics)
            line.seconds[cell.seed] = record.seconds
            line.curves[cell.seed] = [(s, scale * v) for s, v in record.curve]
            for name, value in record.columns.items():
                line.columns.setdefault(name, {})[cell.seed] = value
        if isinstance(entry, Row):
            line.against = entry.against
            line.published, line.source = entry.published, entry.source
            line.teacher = entry.teacher
            if not entry.equal_time:
                line.rival = _find_rival(table, entry)
        else:
            line.patience = entry.patience
        lines.append(line)
    for row in table.rows:
        if row.equal_time:
            _lend_teacher(lines, row)
    compare(lines)
    return lines


def _find_rival(table: Table, row: Row) -> str | None:
    """The row of equal time below the same baseline."""
    rivals = (
        other.name
        for other in table.rows
        if other.equal_time and other.against == row.against
    )
    return next(rivals, None)


def _lend_teacher(lines: Sequence[Line], row: Row) -> None:
    """Lets a row of equal time close the gap to the methods' teacher."""
    methods = [line for line in lines if line.rival == row.name]
    teachers = {method.teacher for method in methods}
    if len(teachers) == 1:
        (own,) = (line for line in lines if line.name == row.name)
        (own.teacher,) = teachers


def find_gap(lines: Sequence[Line], line: Line) -> float | None:
    """How far a line's teacher is above what the line is compared with.

    Args:
        lines (Sequence[Line]): All lines.
        line (Line): The line.

    Returns:
        float | None: None if one of the two has no value.
    """
    means = {other.name: other.mean for other in lines}
    teacher, base = (
        means.get(line.teacher or ''),
        means.get(line.against or ''),
    )
    return teacher.mean - base.mean if teacher and base else None


def compare(lines: Sequence[Line]) -> None:
    """Sets differences, verdicts and how much of the gap is closed.

    Args:
        lines (Sequence[Line]): All lines of a table.
    """
    by_name = {line.name: line for line in lines}
    compared = [line for line in lines if line.against is not None]
    for line in compared:
        base = by_name[line.against or '']
        line.difference = paired_difference(line.values, base.values)
        gap = find_gap(lines, line)
        if line.difference and gap and gap > 0:
            line.gap_closed = line.difference.scaled(100 / gap)
    verdicts = judge([line.difference for line in compared])
    for line, verdict in zip(compared, verdicts, strict=True):
        line.verdict = verdict
    with_rival = [line for line in lines if line.rival is not None]
    for line in with_rival:
        rival = by_name[line.rival or '']
        line.rival_difference = paired_difference(line.values, rival.values)
    verdicts = judge([line.rival_difference for line in with_rival])
    for line, verdict in zip(with_rival, verdicts, strict=True):
        line.rival_verdict = verdict


def list_doubts(table: Table, lines: Sequence[Line]) -> list[str]:
    """Says where a table cannot show what it is meant to show.

    Args:
        table (Table): The table.
        lines (Sequence[Line]): Its lines.

    Returns:
        list[str]: A sentence for each teacher that is too near to its
        students, or had not stopped gaining, and one for all rows that have
        not converged, or of which that is not known.
    """
    doubts = []
    unit = table.metric.name
    gaps = {
        (line.teacher, line.against): find_gap(lines, line)
        for line in lines
        if line.teacher and line.against
    }
    for (teacher, base), gap in gaps.items():
        if gap is not None and gap < table.min_gap:
            doubts.append(
                f'The gap is small: {teacher} is {gap:+.1f} {unit} from '
                f'{base}, and at least {table.min_gap:g} are needed for a '
                'difference between methods to show.'
            )
    for line in lines:
        curve = next(iter(line.curves.values()), [])
        if line.patience and curve:
            values = [value for _, value in curve]
            since = len(values) - 1 - values.index(max(values))
            if since < line.patience:
                doubts.append(
                    f'{line.name} was still gaining when its schedule ended: '
                    f'{since} validations without a gain, its patience is '
                    f'{line.patience}. Let it train for longer.'
                )
    students = [
        line for line in lines if line.against or _is_base(lines, line)
    ]
    shares = {line.name: line.gained_late for line in students if line.values}
    rising = [
        f'{name} ({100 * share:.0f} %)'
        for name, share in shares.items()
        if share is not None and share >= CONVERGED
    ]
    if rising:
        doubts.append(
            f'Not converged, {100 * CONVERGED:.0f} % of the final {unit} or '
            'more gained in the last quarter of the schedule: '
            f'{", ".join(rising)}.'
        )
    unknown = [name for name, share in shares.items() if share is None]
    if unknown:
        doubts.append(
            'Not known whether they have converged, for they were not '
            'validated before the last quarter of their schedule '
            f'(train_cfg.val_interval): {", ".join(unknown)}.'
        )
    return doubts


def _is_base(lines: Sequence[Line], line: Line) -> bool:
    return any(other.against == line.name for other in lines)


def list_teachers(table: Table, lines: Sequence[Line]) -> list[str]:
    """The learning curves of the teachers, in words.

    Args:
        table (Table): The table.
        lines (Sequence[Line]): Its lines.

    Returns:
        list[str]: A sentence for each that has a curve.
    """
    said = []
    names = {teacher.name for teacher in table.teachers}
    for line in (line for line in lines if line.name in names):
        for seed, curve in line.curves.items():
            if curve:
                steps = [f'{value:.1f} ({step:g})' for step, value in curve]
                ends = '; the best checkpoint teaches' if line.patience else ''
                said.append(
                    f'{line.name}, {line.seconds[seed]:.0f} s: '
                    f'{", ".join(steps)}{ends}'
                )
    return said


def list_trials(
    table: Table, metrics: Mapping[str, Mapping[float, float]]
) -> str:
    """The trials of weights as a Markdown table.

    Args:
        table (Table): The table, with the weights that were chosen.
        metrics (Mapping[str, Mapping[float, float]]): The metric by row and
            factor.

    Returns:
        str: The table.
    """
    assert table.weights_grid is not None
    factors = table.weights_grid.factors
    chosen = {row.name: row.factor for row in table.rows}
    columns = {
        'method': [*metrics],
        **{
            f'x {factor:g}': [
                _number(tried.get(factor), '.2f') for tried in metrics.values()
            ]
            for factor in factors
        },
        'chosen': [
            MISSED if chosen[name] is None else f'x {chosen[name]:g}'
            for name in metrics
        ],
    }
    return _markdown(columns)


def _show(value: Estimate | None, sign: str = '', form: str = '.2f') -> str:
    if value is None:
        return MISSED
    text = f'{value.mean:{sign}{form}}'
    if value.half_width is not None:
        text += f' ± {value.half_width:{form}}'
    return text


def _show_difference(value: Estimate | None, line: Line) -> str:
    text = _show(value, '+')
    pairs = value.n if value else 0
    # Seeds may be missing on either side.
    return f'{text} ({pairs} pairs)' if 0 < pairs < line.seeds else text


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    pretty = PrettyTable()
    for name, cells in columns.items():
        pretty.add_column(name, [cell.replace('|', '\\|') for cell in cells])
    pretty.align = 'r'
    for name in ('method', 'source', 'verdict', 'verdict at equal time'):
        if name in columns:
            pretty.align[name] = 'l'
    pretty.set_style(TableStyle.MARKDOWN)
    return str(pretty)


def render_markdown(
    table: Table,
    lines: Sequence[Line],
    facts: Mapping[str, str],
    metrics: Mapping[str, Mapping[float, float]] | None = None,
) -> str:
    """Renders a table as Markdown.

    Args:
        table (Table): What was run.
        lines (Sequence[Line]): Its lines.
        facts (Mapping[str, str]): What is said above the table, such as the
            command that made it.
        metrics (Mapping[str, Mapping[float, float]] | None): The trials of
            weights. Defaults to none.

    Returns:
        str: A heading, the facts and the table, and what is said below it.
        Columns that no line has a value for are left out.
    """
    name = table.metric.name
    columns: dict[str, list[str]] = {
        'method': [line.name for line in lines],
        name: [_show(line.mean) for line in lines],
        f'Δ {name}': [_show_difference(x.difference, x) for x in lines],
        'verdict': [line.verdict or MISSED for line in lines],
    }
    further = {
        f'Δ {name} at equal time': [
            _show_difference(x.rival_difference, x) for x in lines
        ],
        'verdict at equal time': [x.rival_verdict or MISSED for x in lines],
        'gap closed %': [_show(x.gap_closed, form='.0f') for x in lines],
        **{
            c.name: [_show(x.column(c.name)) for x in lines]
            for c in table.columns
        },
        'step time ratio': [_number(line.step_ratio, '.2f') for line in lines],
        'step MiB': [_number(line.step_memory, '.0f') for line in lines],
        'seconds': [
            _number(fmean(x.seconds.values()) if x.seconds else None, '.0f')
            for x in lines
        ],
        'published': [line.published or MISSED for line in lines],
        'source': [line.source or MISSED for line in lines],
    }
    columns |= {
        heading: cells
        for heading, cells in further.items()
        if set(cells) != {MISSED}
    }
    columns['n'] = [
        f'{len(line.values)}'
        if len(line.values) == line.seeds
        else f'{len(line.values)}/{line.seeds}'
        for line in lines
    ]
    text = (
        f'# {table.title}\n\n{_items(f"{k}: {v}" for k, v in facts.items())}'
    )
    text += f'\n{_markdown(columns)}\n'
    if doubts := list_doubts(table, lines):
        text += f'\n{_items(doubts)}'
    if teachers := list_teachers(table, lines):
        text += f'\n## Learning curves of the teachers\n\n{name} (after how '
        text += f'many epochs or iterations)\n\n{_items(teachers)}'
    if metrics and table.weights_grid:
        text += '\n## Weights of the distill losses\n\n'
        text += f'{name} with the seed {table.weights_grid.seed}, which is '
        text += 'none of the table; the weights of the config are multiplied '
        text += 'by the same factors for all methods.\n\n'
        text += f'{list_trials(table, metrics)}\n'
    return text


def _items(sentences: Any) -> str:
    return ''.join(f'- {sentence}\n' for sentence in sentences)


def _number(value: float | None, form: str) -> str:
    return MISSED if value is None else f'{value:{form}}'


def render_csv(table: Table, lines: Sequence[Line]) -> str:
    """Renders a table as CSV, with plain numbers and all columns.

    Args:
        table (Table): What was run.
        lines (Sequence[Line]): Its lines.

    Returns:
        str: The content of the file.
    """
    name = table.metric.name
    rows = []
    for line in lines:
        row: dict[str, Any] = {'method': line.name}
        row |= _flat(name, line.mean)
        row |= _flat(f'difference of {name}', line.difference)
        row |= {'against': line.against, 'verdict': line.verdict}
        if any(other.rival for other in lines):
            row |= _flat(f'{name} at equal time', line.rival_difference)
            row['verdict at equal time'] = line.rival_verdict
        row |= _flat('gap closed %', line.gap_closed)
        row['gained in the last quarter'] = line.gained_late
        for column in table.columns:
            row |= _flat(column.name, line.column(column.name))
        row['step time ratio'] = line.step_ratio
        row['step MiB'] = line.step_memory
        row |= _flat('seconds', estimate([*line.seconds.values()]))
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
    """Renders a table as JSON, with the value of every seed.

    Args:
        table (Table): What was run.
        lines (Sequence[Line]): Its lines.
        facts (Mapping[str, str]): What is said above the table.

    Returns:
        str: The content of the file.
    """
    content = {
        'title': table.title,
        'facts': dict(facts),
        'metric': vars(table.metric),
        'seeds': table.seeds,
        'lines': [
            asdict(line)
            | {
                'mean': line.mean and asdict(line.mean),
                'gained_late': line.gained_late,
            }
            for line in lines
        ],
        'doubts': list_doubts(table, lines),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'
