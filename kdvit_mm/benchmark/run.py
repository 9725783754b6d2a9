"""A table from its file to its report."""

import logging
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mmengine.logging import print_log

from kdvit_mm.benchmark.cells import (
    Cell,
    cells_to_run,
    choose_cells,
    make_cells,
    with_needs,
)
from kdvit_mm.benchmark.derived import (
    schedule_length,
    trial_metrics,
    trial_names,
    weight_trials,
    with_equal_time,
    with_weights,
)
from kdvit_mm.benchmark.plan import HOUR, estimate_seconds, make_plan
from kdvit_mm.benchmark.pool import Pool
from kdvit_mm.benchmark.records import Records
from kdvit_mm.benchmark.report import (
    make_lines,
    render_csv,
    render_json,
    render_markdown,
)
from kdvit_mm.benchmark.table import Table, read_table
from kdvit_mm.benchmark.timing import add_timing, measure, read_timing
from kdvit_mm.datasets.preparation import prepare_data
from kdvit_mm.engine.stages import check_unchanged, read
from kdvit_mm.visualization.tables import plot_curves, plot_gaps

# Data sets that are made or looked for before the first cell.
DATA = {
    'data/digit_scenes': 'digits',
    'data/bccd': 'bccd',
    'data/neudet': 'neudet',
    'data/coco256': 'coco256',
}


class TableRun:
    """A table with what is known of it.

    Args:
        file (str | Path): The table file.
        out (Path): Folder of its runs.
        results (str | None): Folder of what is kept. Defaults to None, the
            one that the file names if it is there, or else ``out``.
        data_root (str | None): Folder of the data set. Defaults to None, the
            one that the file or its configs name.

    Attributes:
        failed (list[Cell]): Cells that failed.

    Raises:
        TableError: If the file has a mistake.
    """

    def __init__(
        self,
        file: str | Path,
        out: Path,
        results: str | None = None,
        data_root: str | None = None,
    ) -> None:
        self.table = read_table(file)
        self.out = out
        self.root = data_root or self.table.data_root
        self.own_root = data_root is not None
        kept = self.table.results
        # An installed package has the table, but not the folder.
        self.folder = Path(
            results or (kept if kept and kept.is_dir() else out)
        )
        self.records = Records(self.file('cells.jsonl'))
        self.timing = read_timing(self.file('timing.json'))
        self.failed: list[Cell] = []

    def file(self, ending: str) -> Path:
        """A file of what is kept.

        Args:
            ending (str): What follows the table's name.

        Returns:
            Path: The file.
        """
        return self.folder / f'{self.table.file.stem}.{ending}'

    def cells(self, table: Table) -> list[Cell]:
        """Cells of the table, or of one that was made of it.

        Args:
            table (Table): The table.

        Returns:
            list[Cell]: They, with what is recorded of them.
        """
        return make_cells(table, self.out, self.root, self.records)

    def with_equal_time(self) -> Table:
        """The table with its rows of equal time, once they are measured."""
        ratios = {name: step.ratio for name, step in self.timing.items()}
        return with_equal_time(self.table, ratios)

    def decided(self) -> tuple[Table, list[Cell]]:
        """The table with all that could be decided so far.

        Returns:
            tuple[Table, list[Cell]]: The table with rows of equal time and
            chosen weights, and the trials of these.
        """
        table = self.with_equal_time()
        trials = self.cells(weight_trials(table))
        return with_weights(table, trial_metrics(table, trials)), trials

    def train(
        self,
        slots: list[dict[str, str]],
        names: list[str] | None = None,
        shard: tuple[int, int] = (1, 1),
        timing_rounds: int = 10,
        budget: float | None = None,
    ) -> None:
        """Trains what has no result, and measures steps.

        Args:
            slots (list[dict[str, str]]): Environments of the cells that run
                at once.
            names (list[str] | None): Names of rows and teachers. Defaults to
                None, all.
            shard (tuple[int, int]): Which part, counted from 1, of how many.
                Defaults to (1, 1).
            timing_rounds (int): Rounds of the step time measurement. Defaults
                to 10.
            budget (float | None): Hours. Defaults to None, all there is.

        Raises:
            TableError: If something in the table cannot be used.
            StageFailed: If a checkpoint is missing.
        """
        start = time.time()
        # A mistake in the table is told before data are made.
        self.cells(self.table)
        self._choose(self.with_equal_time(), names, shard)
        self._prepare()
        table, trials = self.decided()
        check_unchanged([*self.cells(table), *trials])
        chosen = self._choose(table, names, shard)
        # Parts of a table would measure the same rows at once.
        measures = timing_rounds > 0 and names is None and shard[1] == 1
        if table.equal_time or budget is not None:
            teachers = {teacher.name for teacher in table.teachers}
            run = [c for c in cells_to_run(chosen) if c.name in teachers]
            self._run(run, slots)
            if measures:
                rows = {row.name for row in self.table.rows}
                self._measure(rows, timing_rounds)
            table, trials = self.decided()
            chosen = self._choose(table, names, shard)
        # A row's trials, and then the row.
        order = [
            cell
            for row in table.rows
            for part, of in (
                (trials, trial_names(table, row.name)),
                (chosen, [row.name]),
            )
            for cell in part
            if cell.name in of and row.name in {c.name for c in chosen}
        ]
        if budget is not None:
            spent = time.time() - start
            left = len(slots) * (budget * HOUR - spent)
            order = self._plan(table, order, left)
        self._run(cells_to_run(with_needs(trials, order)), slots)
        table, _ = self.decided()
        cells = self.cells(table)
        check_unchanged(cells)
        keys = {(cell.name, cell.seed) for cell in order}
        if budget is None:
            keys |= {(cell.name, cell.seed) for cell in chosen}
        wanted = [cell for cell in cells if (cell.name, cell.seed) in keys]
        wanted = with_needs(cells, wanted)
        run = cells_to_run(wanted)
        print_log(
            f'{len(wanted) - len(run)} of {len(wanted)} cells are finished.'
        )
        self._run(run, slots)
        if measures:
            rows = {cell.name for cell in cells if cell.known}
            self._measure(rows, timing_rounds)

    def report(self) -> str:
        """Writes the table, its pictures and what was not recorded yet.

        Returns:
            str: The table as Markdown.
        """
        table, trials = self.decided()
        cells = self.cells(table)
        for cell in [*cells, *trials]:
            record = cell.record(table)
            if record and self.records.find(cell) is None:
                self.records.add(record)
        undecided = {row.name for row in table.rows if row.factor is None}
        for line in self.records.unused([*cells, *trials], undecided):
            print_log(line, level=logging.WARNING)
        lines = make_lines(table, cells)
        add_timing(lines, self.timing)
        facts = self._facts(table, cells)
        self.folder.mkdir(parents=True, exist_ok=True)
        markdown = render_markdown(
            table, lines, facts, trial_metrics(table, trials)
        )
        self.file('md').write_text(markdown)
        self.file('csv').write_text(render_csv(table, lines))
        self.file('json').write_text(render_json(table, lines, facts))
        plot_gaps(lines, self.file('gaps.png'))
        plot_curves(lines, table.metric.name, self.file('curves.png'))
        return markdown

    def _prepare(self) -> None:
        """Makes the embedded data set if it is needed and missing."""
        configs = {
            entry.config
            for entries in (self.table.rows, self.table.teachers)
            for entry in entries
        }
        roots = {
            str(read(config, {}).get('data_root')).rstrip('/')
            for config in configs
        }
        for name in {DATA.get(root) for root in roots} - {None}:
            # What is in a folder of the user's own is not made anew.
            if not self.root or not Path(self.root, 'annotations').is_dir():
                prepare_data(str(name), self.root)

    def _choose(
        self, table: Table, names: list[str] | None, shard: tuple[int, int]
    ) -> list[Cell]:
        """Cells that are wanted, with the config's weights if undecided."""
        rows = [replace(row, factor=row.factor or 1) for row in table.rows]
        cells = self.cells(replace(table, rows=rows))
        return choose_cells(table, cells, names, shard)

    def _run(self, cells: list[Cell], slots: list[dict[str, str]]) -> None:
        self.failed += Pool(self.table, cells, slots, self.records).run()

    def _measure(self, rows: Collection[str], rounds: int) -> None:
        cells = [c for c in self.cells(self.table) if c.name in rows]
        self.timing = measure(
            self.table, cells, rounds, self.file('timing.json')
        )

    def _plan(
        self, table: Table, cells: list[Cell], seconds: float
    ) -> list[Cell]:
        times = estimate_seconds(table, cells, self.timing)
        plan = make_plan(times, [c for c in cells if not c.known], seconds)
        print_log(f'Plan: {plan}')
        return [*plan.fits]

    def _facts(self, table: Table, cells: list[Cell]) -> dict[str, str]:
        """What has to be known about how the table came about."""
        data = ' --data-root DATA_ROOT' if self.own_root else ''
        facts = {
            'command': '`python tools/benchmark/run_table.py '
            f'{table.file}{data}`',
            'seeds': ', '.join(map(str, table.seeds)),
            'intervals': "95 %, by Student's t over seeds; differences are "
            'paired by seed',
        }
        compared = sum(row.against is not None for row in table.rows)
        facts['verdicts'] = (
            "whether the 95 % interval leaves out 0, after Holm's correction "
            f'over the {compared} rows that are compared'
        )
        lengths = {
            row.name: schedule_length(read(row.config, row.options))
            for row in table.rows
        }
        for row in table.rows:
            if row.equal_time and row.against:
                key, longer = lengths[row.name]
                _, length = lengths[row.against]
                facts[row.name] = (
                    f'{longer} {key.removeprefix("max_")} in place of '
                    f'{length}, the time that the slowest method takes'
                )
        records = [r for cell in cells if (r := cell.record(table))]
        for name in ('machine', 'torch'):
            values = {getattr(record, name) for record in records}
            if values:
                facts[name] = '; '.join(sorted(values))
        if self.timing:
            ways = {
                f'{len(step.seconds)} rounds, {step.device}, {step.threads} '
                f'threads, {step.machine}'
                for step in self.timing.values()
            }
            facts['step time and memory'] = (
                f'a training step, the median of {"; ".join(sorted(ways))}'
            )
        return facts
