"""Rows that the tool adds or changes."""

from dataclasses import replace

import pytest
from mmengine.config import Config

from kdvit_mm.benchmark.cells import make_cells
from kdvit_mm.benchmark.derived import (
    longer_schedule,
    trial_metrics,
    weight_options,
    weight_trials,
    with_equal_time,
    with_weights,
)
from kdvit_mm.benchmark.records import Records
from kdvit_mm.benchmark.table import read_table
from kdvit_mm.engine.stages import read
from tests.tables import KD, SMALL, describe, write
from tests.test_benchmark.test_records import record_of

GRID = dict(seed=9, factors=[0.3, 1, 3])


def rows() -> list[dict]:
    alone, kd = describe()['rows']
    options = {'model.distiller.distill_losses.loss_kd.tau': 2}
    slow = dict(name='slow', config=str(KD), teacher='big', options=options)
    return [alone, kd, slow]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A table with changes."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return lambda **changes: read_table(
        write(tmp_path / 'table.yaml', rows=rows(), **changes)
    )


def test_equal_time_is_that_of_the_slowest_method(make):
    options = {'train_cfg.max_epochs': 24, 'param_scheduler.1.T_max': 24}
    table = make(equal_time=True, options=options)
    derived = with_equal_time(table, {'KD': 1.5, 'slow': 1.8, 'alone': 1})
    assert [row.name for row in derived.rows] == [
        'alone', 'alone, equal time', 'KD', 'slow',
    ]  # fmt: skip
    row = derived.rows[1]
    assert row.equal_time and row.against == 'alone'
    assert row.config == SMALL and row.teacher is None
    cfg = read(row.config, row.options)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].T_max == 43
    # The warm-up is in iterations.
    assert cfg.param_scheduler[0].end == 50
    assert derived.rows[2:] == table.rows[1:]


def test_equal_time_counts_longer_schedules(make):
    table = make(equal_time=True, options={'train_cfg.max_epochs': 10})
    slow = replace(table.rows[2], options={'train_cfg.max_epochs': 5})
    table = replace(table, rows=[*table.rows[:2], slow])
    derived = with_equal_time(table, {'KD': 1.5, 'slow': 2.8})
    assert derived.rows[1].options['train_cfg.max_epochs'] == 15


def test_equal_time_waits_for_all_measurements(make):
    table = make(equal_time=True)
    assert with_equal_time(table, {'KD': 1.5}) == table
    table = make()
    assert with_equal_time(table, {'KD': 1.5, 'slow': 1.8}) == table


def test_schedules_are_stretched_in_their_own_unit():
    cfg = Config(
        dict(
            train_cfg=dict(max_iters=1000, val_interval=250),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, begin=0, end=100),
                dict(type='PolyLR', by_epoch=False, begin=100, end=1000),
                dict(type='MultiStepLR', milestones=[8, 11]),
            ],
        )
    )
    assert longer_schedule(cfg, 1.5) == {
        'train_cfg.max_iters': 1500,
        'param_scheduler.0.end': 150,
        'param_scheduler.1.begin': 150,
        'param_scheduler.1.end': 1500,
    }
    cfg.train_cfg = dict(max_epochs=12)
    cfg.param_scheduler = cfg.param_scheduler[2]
    assert longer_schedule(cfg, 2) == {
        'train_cfg.max_epochs': 24,
        'param_scheduler.milestones': [16, 22],
    }


def test_weights_are_multiplied_for_all_losses(make):
    alone, kd, _ = make().rows
    key = 'model.distiller.distill_losses.loss_kd.loss_weight'
    assert weight_options(alone, 3) == {}
    assert weight_options(kd, 3) == {key: 2.7}
    tuned = replace(kd, options=kd.options | {key: 0.1})
    assert weight_options(tuned, 3) == {key: 0.3}


def test_the_best_weight_is_chosen_once_all_are_known(make, tmp_path):
    table = make(weights_grid=GRID)
    trials_table = weight_trials(table)
    assert [row.name for row in trials_table.rows] == [
        f'{name}, weight x {factor}'
        for name in ('KD', 'slow')
        for factor in ('0.3', '1', '3')
    ]
    records = Records(tmp_path / 'a.jsonl')

    def trials():
        return make_cells(trials_table, tmp_path / 'out', None, records)

    assert {cell.seed for cell in trials()[1:]} == {9}
    for cell, value in zip(trials()[1:6], (1, 5, 5, 7, 2), strict=True):
        records.add(record_of(cell, value))
    metrics = trial_metrics(table, trials())
    assert metrics == {'KD': {0.3: 1, 1: 5, 3: 5}, 'slow': {0.3: 7, 1: 2}}
    alone, kd, slow = with_weights(table, metrics).rows
    assert alone == table.rows[0]
    assert kd.factor == 1, 'the first of equally good ones'
    assert slow.factor is None
    cells = make_cells(with_weights(table, metrics), tmp_path, None)
    assert {cell.name for cell in cells} == {'big', 'alone', 'KD'}
    metrics['slow'][3] = 1
    slow = with_weights(table, metrics).rows[2]
    cfg = read(slow.config, slow.options)
    assert slow.factor == 0.3
    assert cfg.model.distiller.distill_losses.loss_kd.loss_weight == 0.27


def test_what_goes_on_from_an_undecided_row_is_undecided(make, tmp_path):
    table = make(weights_grid=GRID)
    alone, kd, _ = table.rows
    tuned = replace(alone, name='tuned', options={'load_from': '{KD}'})
    table = replace(table, rows=[alone, kd, tuned])
    undecided = with_weights(table, {'KD': {1: 5}})
    assert [row.factor for row in undecided.rows] == [1, None, None]
    cells = make_cells(undecided, tmp_path, None)
    assert {cell.name for cell in cells} == {'big', 'alone'}
    decided = with_weights(table, {'KD': {0.3: 4, 1: 5, 3: 3}})
    cells = make_cells(decided, tmp_path, None)
    assert {c.name for c in cells} == {'big', 'alone', 'KD', 'tuned'}
