"""What fits into a budget."""

from dataclasses import replace

import pytest

from kdvit_mm.benchmark.cells import make_cells
from kdvit_mm.benchmark.derived import weight_trials, with_equal_time
from kdvit_mm.benchmark.plan import estimate_seconds, make_plan
from kdvit_mm.benchmark.records import Records
from kdvit_mm.benchmark.table import read_table
from kdvit_mm.benchmark.timing import StepTime
from tests.tables import write
from tests.test_benchmark.test_records import record_of


def step(seconds: float, steps: int = 100) -> StepTime:
    return StepTime('', [seconds] * 3, [1.0] * 3, 0, steps, 'cpu', 1, '')


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    grid = dict(seed=9, factors=[1, 3])
    return read_table(
        write(tmp_path / 'table.yaml', equal_time=True, weights_grid=grid)
    )


def test_recorded_times_go_before_measured_ones(table, tmp_path):
    timing = {'alone': step(0.5), 'KD': step(1.0)}
    table = with_equal_time(table, {'KD': 2.0})
    records = Records(tmp_path / 'a.jsonl')

    def cells():
        made = make_cells(table, tmp_path / 'out', None, records)
        trials = make_cells(weight_trials(table), tmp_path / 'out', None)
        return [*made, *trials[1:]]

    def seconds():
        found = estimate_seconds(table, cells(), timing)
        return {str(cell): value for cell, value in found.items()}

    measured = seconds()
    assert measured['alone, seed 0'] == 50
    assert measured['alone, equal time, seed 0'] == 100
    assert measured['KD, seed 1'] == measured['KD, weight x 3, seed 9'] == 100
    assert measured['big, seed 0'] is None
    alone = next(c for c in cells() if str(c) == 'alone, seed 0')
    records.add(replace(record_of(alone, 1.0), seconds=70))
    assert seconds()['alone, seed 1'] == 70


def test_cells_fit_in_their_order(table, tmp_path):
    cells = make_cells(table, tmp_path / 'out', None)
    times = dict(zip(cells, (100.0, 50.0, 50.0, 300.0, None), strict=True))
    plan = make_plan(times, cells, 210)
    assert [*plan.fits] == cells[:3] and [*plan.left] == cells[3:]
    # Of the last one nothing is known: as long as the longest.
    assert sum(plan.left.values()) == 600
    assert str(plan) == (
        '3 cells fit, about 0.06 of 0.06 hours. Left are 2, about 0.17 hours: '
        'KD (0, 1).'
    )
    # A short cell after a long one has to wait for it, too.
    assert [*make_plan(times, cells, 120).fits] == cells[:1]
    everything = make_plan(times, cells, 3600)
    assert not everything.left and 'Left' not in str(everything)
    assert not make_plan(times, cells, -1).fits
