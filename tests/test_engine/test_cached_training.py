"""Whole trainings with a cache of the teacher's records, bit for bit."""

import pytest

from tests.resume_checks import DISTILLED, read_config, run, run_in_halves
from tests.test_engine.test_training import PLAIN, assert_same


def config(task, digits, folder, cache, steps=2, name=None):
    """Without photometric distortion, so that images come back."""
    cfg = read_config(name or DISTILLED[task], digits, folder, steps)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[:] = [t for t in pipeline if 'Distortion' not in t.type]
    if cache is not None:
        cfg.model.cache = dict(dir=str(cache))
    return cfg


def weights(runner):
    return getattr(runner.model, 'student', runner.model).state_dict()


@pytest.mark.parametrize('task', ['seg', 'cls'])
def test_full_empty_and_resumed_caches_give_one_training(
    task, digits, tmp_path
):
    straight = run(config(task, digits, tmp_path / 'a', tmp_path / 'kept'))
    again = run(config(task, digits, tmp_path / 'b', tmp_path / 'kept'))
    halves = run_in_halves(
        lambda: config(task, digits, tmp_path / 'c', tmp_path / 'resumed')
    )
    assert_same(weights(straight), weights(again))
    assert_same(weights(straight), weights(halves))
    hits = again.message_hub.get_scalar('train/teacher.cache_hits').data[0]
    assert (hits == 1).all()


def test_weight_zero_trains_the_student_as_if_alone(digits, tmp_path):
    alone = run(config('cls', digits, tmp_path / 'a', None, name=PLAIN['cls']))
    cfg = config('cls', digits, tmp_path / 'b', tmp_path / 'kept')
    for loss in cfg.model.distiller.distill_losses.values():
        loss.loss_weight = 0.0
    assert_same(weights(alone), weights(run(cfg)))
