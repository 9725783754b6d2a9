"""How well a score of untrained students foretells what they reach."""

from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from prettytable import PrettyTable, TableStyle
from scipy.stats import kendalltau

from kdvit_mm.analysis.student_search import NUMBERS, rounded
from kdvit_mm.benchmark.report import make_lines
from kdvit_mm.benchmark.run import TableRun
from kdvit_mm.benchmark.table import TableError
from kdvit_mm.engine.loops import StudentSearchLoop
from kdvit_mm.engine.stages import read
from kdvit_mm.models.utils.student_config import student_model


@dataclass
class Foretelling:
    """Scores of a table's students beside their metric.

    Attributes:
        metric (str): Name of the metric.
        students (list[dict[str, Any]]): By student its ``name``, ``reached``
            and all of ``NUMBERS``.
    """

    metric: str
    students: list[dict[str, Any]]

    def correlations(self) -> dict[str, tuple[float, float]]:
        """Kendall's tau of each number with the metric, and its p-value.

        Distances count with the opposite sign: the smaller, the better.
        """
        reached = [student['reached'] for student in self.students]
        found = {}
        for key in NUMBERS:
            sign = -1 if key in ('relation', 'semantic') else 1
            values = [sign * student[key] for student in self.students]
            tau, p_value = kendalltau(values, reached)
            found[key] = float(tau), float(p_value)
        return found

    def markdown(self) -> str:
        """A page in Markdown: the correlations, then the students."""
        students = PrettyTable(['student', self.metric, *NUMBERS], align='r')
        for student in sorted(self.students, key=lambda s: -s['reached']):
            numbers = [rounded(student[key]) for key in NUMBERS]
            reached = f'{student["reached"]:.1f}'
            students.add_row([student['name'], reached, *numbers])
        taus = PrettyTable(['foretold by', "Kendall's τ", 'p'], align='r')
        for key, (tau, p_value) in self.correlations().items():
            taus.add_row([key, f'{tau:.2f}', f'{p_value:.2g}'])
        for table in (students, taus):
            table.set_style(TableStyle.MARKDOWN)
        return (
            f'# What foretells the {self.metric} of a student\n\n{taus}\n\n'
            'FLOPs and parameters are in millions; of relation and semantic, '
            f'the smaller is the better.\n\n{students}\n'
        )


def foretell(cfg: Config, run: TableRun) -> Foretelling:
    """Scores the students of a table that has been run.

    Args:
        cfg (Config): Config of a search, whose model scores on its data.
        run (TableRun): The table. Its rows are distillations.

    Returns:
        Foretelling: The scores beside the mean of the table's metric.

    Raises:
        TableError: If fewer than three rows have a result.
    """
    lines = make_lines(run.table, run.cells(run.table))
    means = {line.name: line.mean for line in lines}
    rows = [row for row in run.table.rows if means.get(row.name)]
    if len(rows) < 3:
        raise TableError(
            f'{run.table.file}: {len(rows)} rows have a result in '
            f'{run.folder}. Run them first: python '
            f'tools/benchmark/run_table.py {run.table.file}'
        )
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    runner = Runner.from_cfg(cfg)
    # All rows are scored, also those that the search may not choose.
    search = {**cfg.train_cfg, 'constraints_range': None}
    loop = runner.build_train_loop(search)
    assert isinstance(loop, StudentSearchLoop)
    loop.see_batch()
    students = []
    for row in rows:
        mean = means[row.name]
        assert mean is not None
        config = student_model(read(row.config, row.options))
        students.append(
            {'name': row.name, 'reached': mean.mean, **loop.look_at(config)}
        )
    return Foretelling(run.table.metric.name, students)
