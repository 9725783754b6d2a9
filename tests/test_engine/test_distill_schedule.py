"""Schedules of weights and temperatures, in real runs."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tests.test_engine.test_training import DISTILLED, PLAIN, read_config


@HOOKS.register_module()
class RecordLosses(Hook):
    """Keeps weight, temperature, teacher runs and losses of each iteration."""

    priority = 'VERY_LOW'

    def before_train(self, runner) -> None:
        self.rows: list[dict] = []
        teacher = runner.model.teacher
        teacher.backbone.register_forward_hook(
            lambda *_: self.rows[-1].update(teacher=True)
        )

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        loss = runner.model.distiller.distill_losses['loss_kd']
        self.rows.append(
            dict(weight=loss.loss_weight, tau=loss.tau, teacher=False)
        )

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        self.rows[-1]['names'] = {k for k in outputs if 'distill' in k}


def config(digits, folder, schedules, epochs=4, kind=None):
    cfg = read_config(DISTILLED['cls'], digits, folder, epochs)
    cfg.model.distiller.distill_losses.loss_kd.loss_weight = 1
    cfg.custom_hooks += [
        kind or dict(type='kdvit_mm.DistillScheduleHook', schedules=schedules),
        dict(type='RecordLosses'),
    ]
    return cfg


def run(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    (hook,) = (h for h in runner.hooks if isinstance(h, RecordLosses))
    return runner, hook.rows


def by_epoch(rows, key):
    """The value of each epoch, which is 10 iterations long."""
    values = [
        {row[key] for row in rows[i : i + 10]} for i in range(0, len(rows), 10)
    ]
    assert all(len(value) == 1 for value in values)
    return [value.pop() for value in values]


def test_weight_and_temperature_by_epoch(digits, tmp_path):
    _, rows = run(
        config(
            digits,
            tmp_path,
            [
                dict(loss='loss_kd', type='linear', start_factor=0.25, end=3),
                dict(
                    loss='*', key='tau', type='cosine', end_factor=0.5, end=4
                ),
                dict(loss=['loss_kd'], type='step', milestones=[2], gamma=0.5),
            ],
        )
    )
    cosine = [
        0.5 + 0.5 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)
    ]
    assert by_epoch(rows, 'weight') == pytest.approx([0.25, 0.5, 0.375, 0.5])
    assert by_epoch(rows, 'tau') == pytest.approx([4 * c for c in cosine])


def test_by_iteration_and_between_begin_and_end(digits, tmp_path):
    _, rows = run(
        config(
            digits,
            tmp_path,
            [
                dict(
                    loss='loss_kd',
                    type='constant',
                    factor=0,
                    begin=3,
                    end=5,
                    by_epoch=False,
                ),
                dict(
                    loss='loss_kd',
                    type='linear',
                    end_factor=2,
                    begin=5,
                    end=7,
                    by_epoch=False,
                ),
            ],
            epochs=1,
        )
    )
    assert [row['weight'] for row in rows] == [1, 1, 1, 0, 0, 1, 1.5, 2, 2, 2]


def test_a_stopped_loss_is_not_computed_and_its_teacher_not_run(
    digits, tmp_path
):
    runner, rows = run(
        config(
            digits, tmp_path, [dict(loss='loss_kd', type='stop', begin=1)], 2
        )
    )
    assert by_epoch(rows, 'teacher') == [True, False]
    assert [bool(row['names']) for row in rows] == [True] * 10 + [False] * 10
    assert runner.model.distillation_stopped


def test_one_of_two_losses_stops(digits, tmp_path):
    cfg = config(
        digits,
        tmp_path,
        [dict(loss='loss_other', type='stop', begin=5, by_epoch=False)],
        epochs=1,
    )
    distiller = cfg.model.distiller
    distiller.distill_losses.loss_other = dict(type='kdvit_mm.DISTLoss')
    distiller.loss_forward_mappings.loss_other = (
        distiller.loss_forward_mappings.loss_kd
    )
    runner, rows = run(cfg)
    both = {'distill.loss_kd', 'distill.loss_other'}
    assert [row['names'] for row in rows] == [both] * 5 + [
        {'distill.loss_kd'}
    ] * 5
    assert all(row['teacher'] for row in rows)
    assert not runner.model.distillation_stopped


def test_resumes_where_it_was(digits, tmp_path):
    schedules = [dict(loss='*', type='linear', start_factor=0, end=4)]
    _, whole = run(config(digits, tmp_path / 'whole', schedules))
    first = config(digits, tmp_path / 'parts', schedules, epochs=2)
    run(first)
    again = config(digits, tmp_path / 'parts', schedules)
    again.resume = True
    _, rest = run(again)
    assert [row['weight'] for row in rest] == [
        row['weight'] for row in whole[20:]
    ]


@pytest.mark.parametrize(
    ('schedule', 'words'),
    [
        (dict(loss='loss_kd'), 'has no type'),
        (dict(type='stop'), 'has no loss'),
        (dict(loss='*', type='warmup'), 'is not one of constant, linear'),
        (dict(loss='*', type='linear', end_factor=0), 'has no end'),
        (dict(loss='*', type='linear', begin=3, end=3), 'not before'),
        (dict(loss='*', type='constant', end=3), 'factor'),
        (dict(loss='*', type='cosine', end=3, gamma=1), 'gamma'),
        (dict(loss='*', type='stop', factor=0), 'a stop takes'),
    ],
)
def test_wrong_schedules_are_refused_when_built(schedule, words):
    with pytest.raises(ValueError, match=words):
        HOOKS.build(
            dict(type='kdvit_mm.DistillScheduleHook', schedules=[schedule])
        )


@pytest.mark.parametrize(
    ('schedule', 'words'),
    [
        (
            dict(loss='loss_dk', type='stop'),
            'no distill loss "loss_dk".*loss_kd',
        ),
        (
            dict(loss='*', type='constant', factor=0, key='temp'),
            'no temp to change',
        ),
    ],
)
def test_what_is_not_there_is_named_before_the_first_step(
    schedule, words, digits, tmp_path
):
    runner = Runner.from_cfg(config(digits, tmp_path, [schedule]))
    with pytest.raises(ValueError, match=words):
        runner.train()
    assert runner.iter == 0


def test_a_plain_model_and_a_loop_of_iterations_are_refused(digits, tmp_path):
    schedules = [dict(loss='*', type='stop', begin=1)]
    plain = read_config(PLAIN['cls'], digits, tmp_path / 'plain', 1)
    plain.custom_hooks.append(
        dict(type='kdvit_mm.DistillScheduleHook', schedules=schedules)
    )
    with pytest.raises(TypeError, match='needs a distillation algorithm'):
        Runner.from_cfg(plain).train()
    cfg = config(digits, tmp_path / 'iters', schedules)
    cfg.train_cfg = dict(
        type='mmengine.IterBasedTrainLoop', max_iters=2, val_interval=2
    )
    with pytest.raises(ValueError, match='by_epoch=False'):
        Runner.from_cfg(cfg).train()


@pytest.mark.usefixtures('forked')
def test_stopped_losses_on_two_ranks(tmp_path):
    """DDP waits for the gradients of their connectors, too."""
    script = str(Path(__file__).with_name('stop_on_two_ranks.py'))
    root = str(Path(__file__).resolve().parents[2])
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(tmp_path / 'store'), str(rank)],
            env=os.environ
            | dict(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE='2',
                PYTHONPATH=root,
                OMP_NUM_THREADS='1',
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors[0]
