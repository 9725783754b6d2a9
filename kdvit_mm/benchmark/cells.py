"""Cells of a table: the runs of its rows and teachers, and their results."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdvit_mm.benchmark.table import (
    Line,
    Row,
    Table,
    TableError,
    Teacher,
    compare,
    reference,
    slug,
)
from kdvit_mm.datasets.preparation import data_options
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


@dataclass(eq=False)
class Cell(Stage):
    """A row or teacher with one seed.

    Attributes:
        seed (int): Its seed. Defaults to 0.
        given (str | None): A checkpoint that is there already; the cell is
            then evaluated and not trained. Defaults to None.
    """

    seed: int = TEACHER_SEED
    given: str | None = None

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
        """Whether it need not be run."""
        return self.result_file.is_file()

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


def make_cells(table: Table, out: Path, root: str | None) -> list[Cell]:
    """All cells of a table; a cell comes after those that it needs.

    Args:
        table (Table): The table.
        out (Path): Folder of the table's output.
        root (str | None): Folder of the data set, if not the configs' own.

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
        _add_cells(cells, table, row, table.seeds, out, root)
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
            seed=seed,
            given=entry.checkpoint if isinstance(entry, Teacher) else None,
        )
        try:
            cell.connect({slug(cell.name): cell for cell in above})
        except RecipeError as error:
            raise TableError(f'{table.file}: {error}') from None
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
    mine: set[Stage] = {c for c in cells if c.name in chosen}
    mine = {*[c for c in cells if c in mine][part - 1 :: parts]}
    for cell in reversed(cells):
        if cell in mine:
            mine.update(need.stage for need in cell.needs.values())
    return [cell for cell in cells if cell in mine]


def read_metric(table: Table, record: dict[str, float]) -> float:
    """The table's metric in a validation's record, scaled."""
    if table.metric.key not in record:
        raise TableError(
            f'{table.file}: metric.key "{table.metric.key}" was never logged; '
            f'the validation logged {", ".join(sorted(record))}. Correct it: '
            'the same command takes up what is finished.'
        )
    return table.metric.scale * record[table.metric.key]


def make_lines(table: Table, cells: list[Cell]) -> list[Line]:
    """Reads the results of all cells that are finished."""
    lines = []
    entries: list[Teacher | Row] = [*table.teachers, *table.rows]
    for entry in entries:
        own = [cell for cell in cells if cell.name == entry.name]
        line = Line(entry.name, len(own))
        for cell in own:
            if cell.result is None:
                continue
            metrics = cell.result['metrics']
            line.values[cell.seed] = read_metric(table, metrics)
            records = read_scalars(cell.folder) if table.columns else []
            for column in table.columns:
                value = column.take(records)
                if value is not None:
                    by_seed = line.columns.setdefault(column.name, {})
                    by_seed[cell.seed] = value
        if isinstance(entry, Row):
            line.against = entry.against
            line.published, line.source = entry.published, entry.source
        lines.append(line)
    compare(lines)
    return lines
