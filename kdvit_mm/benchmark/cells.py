"""Cells of a table: the runs of its rows and teachers, and their results."""

import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdvit_mm.benchmark.records import Record, Records
from kdvit_mm.benchmark.table import (
    Metric,
    Row,
    Table,
    TableError,
    Teacher,
    reference,
    slug,
)
from kdvit_mm.datasets.preparation import data_options, identify_data
from kdvit_mm.engine.stages import (
    SCHEME,
    TOOLS,
    Launcher,
    RecipeError,
    Stage,
    read,
)
from kdvit_mm.visualization import read_scalars

TEACHER_SEED = 0
# In the table's unit: what counts as a gain to a teacher's patience.
MIN_GAIN = 0.1
# What mmengine logs of every validation, whatever its metrics.
TIMES = {'step', 'time', 'data_time'}


@dataclass(eq=False)
class Cell(Stage):
    """A row or teacher with one seed.

    Attributes:
        seed (int): Its seed. Defaults to 0.
        given (str | None): A checkpoint that is there already; the cell is
            then evaluated and not trained. Defaults to None.
        recorded (Record | None): Its result, where another machine has
            trained it. Defaults to None.
    """

    seed: int = TEACHER_SEED
    given: str | None = None
    recorded: Record | None = None

    def __str__(self) -> str:
        return f'{self.name}, seed {self.seed}'

    @property
    def result_file(self) -> Path:
        """Where its result is once it is finished."""
        return self.folder / 'result.json'

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result; None if it is not finished."""
        if not self.result_file.is_file():
            return None
        return json.loads(self.result_file.read_text())

    @property
    def finished(self) -> bool:
        """Whether it was run here."""
        return self.result_file.is_file()

    @property
    def known(self) -> bool:
        """Whether there is a result, from here or elsewhere."""
        return self.finished or self.recorded is not None

    @cached_property
    def data_identity(self) -> str:
        """Stands for its data set; '' if that is not there."""
        root = read(self.config, self.options | self.data).get('data_root')
        # It may be made later.
        is_there = root and Path(root).is_dir()
        return identify_data(Path(root)) if is_there else ''

    @property
    def checkpoint(self) -> str:
        """The checkpoint that is given or that it leaves."""
        return self.given or super().checkpoint

    def content(self) -> dict[str, Any]:
        """All that its result depends on, on any machine."""
        given = {'given': Path(self.given).name} if self.given else {}
        return super().content() | given

    def command(self, launcher: Launcher) -> list[str]:
        """The process that makes its result, or goes on making it."""
        if not self.given:
            return super().command(launcher)
        tool = [sys.executable, str(TOOLS / 'test.py')]
        return [*tool, str(self.config), self.given, *self.arguments()]

    def closing_records(self) -> list[dict[str, float]]:
        """What was logged after the last training step: a validation."""
        # A test is logged in a file of its own.
        pattern = '[0-9]*.json' if self.given else 'vis_data/scalars.json'
        closing: list[dict[str, float]] = []
        for file in sorted(self.folder.glob(f'*/{pattern}')):
            for line in file.read_text().splitlines():
                record = json.loads(line)
                closing = [] if 'loss' in record else [*closing, record]
        return closing

    def trained_seconds(self) -> float:
        """How long its trainings took, interrupted ones included."""
        seconds = 0.0
        for run in self.folder.glob('[0-9]*_[0-9]*'):
            start = time.mktime(time.strptime(run.name, '%Y%m%d_%H%M%S'))
            files = (file.stat().st_mtime for file in run.rglob('*'))
            seconds += max(files, default=start) - start
        return seconds

    def validations(self, key: str) -> list[dict[str, float]]:
        """What its validations logged.

        Args:
            key (str): The metric.

        Returns:
            list[dict[str, float]]: One dictionary per validation that has the
            metric, oldest first.
        """
        return [r for r in read_scalars(self.folder) if key in r]

    def record(self, table: Table) -> Record | None:
        """Its result, as it is kept with the table.

        Args:
            table (Table): The table, which says what is taken from the log.

        Returns:
            Record | None: None if it is not finished.
        """
        if self.result is None:
            return self.recorded
        log = read_scalars(self.folder)
        columns = {c.name: c.take(log) for c in table.columns}
        key = table.metric.key
        return Record(
            name=self.name,
            seed=self.seed,
            fingerprint=self.fingerprint,
            data=self.data_identity,
            metrics={
                name: value
                for name, value in self.result['metrics'].items()
                if name not in TIMES
            },
            curve=[[r['step'], r[key]] for r in log if key in r],
            columns={k: v for k, v in columns.items() if v is not None},
            seconds=self.result['seconds'],
            machine=self.result['machine'],
            torch=self.result['torch'],
        )


def teacher_cache() -> Path:
    """Where teachers are kept, for all tables of this user."""
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(root, 'kdvit_mm', 'teachers')


def patience_options(metric: Metric, patience: int) -> dict[str, Any]:
    """Config options that end a training when it stops gaining.

    Args:
        metric (Metric): What is to gain.
        patience (int): How many validations may gain nothing in a row.

    Returns:
        dict[str, Any]: Values by dotted keys.
    """
    stopping = {
        'type': 'mmengine.EarlyStoppingHook',
        'monitor': metric.key,
        'rule': 'greater',
        'min_delta': MIN_GAIN / metric.scale,
        'patience': patience,
    }
    return {
        'default_hooks.checkpoint.save_best': metric.key,
        'default_hooks.checkpoint.rule': 'greater',
        **{
            f'default_hooks.early_stopping.{k}': v for k, v in stopping.items()
        },
    }


def make_cells(
    table: Table, out: Path, root: str | None, records: Records | None = None
) -> list[Cell]:
    """All cells of a table; a cell comes after those that it needs.

    A teacher that is trained has its folder in the user's cache, so that it
    is trained once for all tables. A row whose weights are not chosen yet has
    no cells.

    Args:
        table (Table): The table.
        out (Path): Folder of the table's output.
        root (str | None): Folder of the data set, if not the configs' own.
        records (Records | None): Results that are known. Defaults to none.

    Returns:
        list[Cell]: The teachers' cells, then the rows'.

    Raises:
        TableError: If a config cannot be read, distils from no teacher though
            its row names one, or names a stage that is not in the table.
    """
    cells: dict[tuple[str, int], Cell] = {}
    for teacher in table.teachers:
        _add_cells(cells, table, teacher, [TEACHER_SEED], out, root)
    for row in table.rows:
        if row.factor is not None:
            _add_cells(cells, table, row, table.seeds, out, root)
    for cell in cells.values():
        cell.recorded = records.find(cell) if records else None
    return [*cells.values()]


def _add_cells(
    cells: dict[tuple[str, int], Cell],
    table: Table,
    entry: Teacher | Row,
    seeds: list[int],
    out: Path,
    root: str | None,
) -> None:
    where = f'{table.file}: "{entry.name}"'
    teacher = entry.teacher if isinstance(entry, Row) else None
    try:
        cfg = read(entry.config, {})
        data = data_options(entry.config, root)
    except Exception as error:
        raise TableError(
            f'{where}: {entry.config} cannot be used, '
            f'{type(error).__name__}: {error}'
        ) from error
    options = {
        key: SCHEME + slug(name) if (name := reference(value)) else value
        for key, value in entry.options.items()
    }
    if teacher:
        if 'teacher' not in cfg.get('model', {}):
            raise TableError(
                f'{where} has a teacher, but {entry.config} has no '
                'model.teacher.'
            )
        options['model.teacher_ckpt'] = SCHEME + slug(teacher)
    given = patience = None
    if isinstance(entry, Teacher):
        given, patience = entry.checkpoint, entry.patience
    if patience:
        options |= patience_options(table.metric, patience)
    for seed in seeds:
        # Of a row, the cell with the same seed.
        above = sorted(
            (c for c in cells.values() if c.seed in (seed, TEACHER_SEED)),
            key=lambda cell: cell.seed == seed,
        )
        cell = Cell(
            name=entry.name,
            config=entry.config,
            folder=out / slug(entry.name) / f'seed_{seed}',
            options=options | {'randomness.seed': seed},
            data=data,
            keeps='best' if patience else 'last',
            seed=seed,
            given=given,
        )
        try:
            cell.connect({slug(cell.name): cell for cell in above})
        except RecipeError as error:
            raise TableError(f'{table.file}: {error}') from None
        if isinstance(entry, Teacher) and not given:
            stands_for = [cell.fingerprint[:16], cell.data_identity]
            name = '-'.join([cell.config.stem, *filter(None, stands_for)])
            cell.folder = teacher_cache() / name
        cells[entry.name, seed] = cell


def choose_cells(
    table: Table,
    cells: list[Cell],
    names: list[str] | None,
    shard: tuple[int, int],
) -> list[Cell]:
    """This machine's part of the named rows, and all that it needs.

    Args:
        table (Table): The table.
        cells (list[Cell]): All of its cells.
        names (list[str] | None): Names of rows and teachers; None for all
            rows.
        shard (tuple[int, int]): Which part, counted from 1, of how many.

    Returns:
        list[Cell]: The cells to run, in their order.

    Raises:
        TableError: If a name is not in the table.
    """
    known = {cell.name for cell in cells}
    for name in names or ():
        if name not in known:
            raise TableError(
                f'--rows: {table.file} has no "{name}", only {sorted(known)}.'
            )
    chosen = names or [row.name for row in table.rows]
    part, parts = shard
    own = [cell for cell in cells if cell.name in chosen]
    return with_needs(cells, own[part - 1 :: parts])


def with_needs(cells: Sequence[Cell], wanted: Collection[Cell]) -> list[Cell]:
    """Cells and all that they need.

    Args:
        cells (Sequence[Cell]): All cells, each after those that it needs.
        wanted (Collection[Cell]): Some of them.

    Returns:
        list[Cell]: Those and what they need, in their order.
    """
    found: set[Stage] = {*wanted}
    for cell in reversed(cells):
        if cell in found:
            found.update(need.stage for need in cell.needs.values())
    return [cell for cell in cells if cell in found]


def cells_to_run(cells: Sequence[Cell]) -> list[Cell]:
    """Those that have no result, and what they need here.

    A teacher that another machine has trained has left no checkpoint here.

    Args:
        cells (Sequence[Cell]): The cells that are wanted and those that they
            need, in their order.

    Returns:
        list[Cell]: Those to run, in their order.
    """
    chosen: list[Cell] = []
    needed: set[Stage] = set()
    for cell in reversed(cells):
        if not (cell.finished if cell in needed else cell.known):
            chosen.insert(0, cell)
            needed.update(need.stage for need in cell.needs.values())
    return chosen


def read_metric(table: Table, record: dict[str, float]) -> float:
    """The table's metric in a validation's record, scaled."""
    if table.metric.key not in record:
        raise TableError(
            f'{table.file}: metric.key "{table.metric.key}" was never logged; '
            f'the validation logged {", ".join(sorted(record))}. Correct it: '
            'the same command takes up what is finished.'
        )
    return table.metric.scale * record[table.metric.key]
