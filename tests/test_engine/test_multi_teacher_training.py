"""Whole trainings with several teachers, bit for bit."""

import pytest
import torch

from tests.resume_checks import read_config, run, run_in_halves
from tests.test_engine.test_training import PLAIN, assert_same
from tests.two_ranks import on_two_ranks

NAME = 'multi_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32'


def config(digits, folder):
    """The demo, without its teachers' checkpoints."""
    cfg = read_config(NAME, digits, folder, 2)
    for teacher in cfg.model.teachers:
        teacher.teacher_ckpt = None
    return cfg


def student(runner):
    return getattr(runner.model, 'student', runner.model).state_dict()


def test_weight_zero_trains_the_student_as_if_alone(digits, tmp_path):
    alone = run(read_config(PLAIN['cls'], digits, tmp_path / 'alone', 2))
    cfg = config(digits, tmp_path / 'zero')
    for loss in cfg.model.distiller.distill_losses.values():
        loss.loss_weight = 0.0
    assert_same(student(alone), student(run(cfg)))


def test_resumed_training_equals_training_straight(digits, tmp_path):
    straight = run(config(digits, tmp_path / 'a'))
    halves = run_in_halves(lambda: config(digits, tmp_path / 'b'))
    assert_same(student(straight), student(halves))
    history = straight.message_hub.get_scalar('train/teacher.wide.weight')
    weights, _ = history.data
    assert ((weights > 0) & (weights < 1)).all() and len(set(weights)) > 1


@pytest.mark.slow
def test_two_ranks(digits, tmp_path):
    (first,), (second,) = on_two_ranks(
        tmp_path, [config(digits, tmp_path / 'work')]
    )
    assert first['iterations'] == second['iterations'] > 0
    for key, value in first['student'].items():
        if 'running' not in key:
            assert torch.equal(value, second['student'][key]), key
