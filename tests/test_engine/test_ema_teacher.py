"""The moving average of the student as its teacher."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from kdvit_mm.engine.hooks import EMATeacherHook
from tests.resume_checks import read_config, run, run_in_halves
from tests.test_engine.test_training import PLAIN, assert_same, train

NAMES = dict(
    cls='ema_logits_resnet18-w0.0625_resnet18-w0.0625_10e_digits-32',
    det='ema_head_gfl_r18-w0.125_gfl_r18-w0.125_4e_digits-96',
)
MOMENTUM = 0.25


def config(task, digits, work_dir, epochs=2):
    cfg = read_config(NAMES[task], digits, work_dir, epochs)
    for hook in cfg.custom_hooks:
        if hook.type == 'kdvit_mm.EMATeacherHook':
            hook.momentum = MOMENTUM
        if hook.type == 'kdvit_mm.DistillScheduleHook':
            hook.schedules = [dict(hook.schedules[0], start_factor=1.0)]
    return cfg


@HOOKS.register_module()
class KeepStudents(Hook):
    """Keeps the student's weights before training and after each step."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter == 0:
            runner.kept = [copy.deepcopy(runner.model.student.state_dict())]

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        runner.kept.append(copy.deepcopy(runner.model.student.state_dict()))


def test_teacher_is_the_average_of_all_steps(digits, tmp_path):
    cfg = config('cls', digits, tmp_path)
    cfg.custom_hooks.append(dict(type='mmengine.KeepStudents'))
    runner = run(cfg)
    first, *later = runner.kept
    assert len(later) == runner.max_iters > 10
    weights = dict(runner.model.student.named_parameters())
    for key, value in runner.model.teacher.state_dict().items():
        if key in weights:
            expected = first[key]
            for state in later:
                expected = (1 - MOMENTUM) * expected + MOMENTUM * state[key]
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, later[-1][key])


@pytest.mark.parametrize('task', NAMES)
def test_resumed_training_equals_training_straight(task, digits, tmp_path):
    straight = run(config(task, digits, tmp_path / 'straight'))
    halves = run_in_halves(lambda: config(task, digits, tmp_path / 'halves'))
    for side in ('student', 'teacher'):
        assert_same(
            *(getattr(r.model, side).state_dict() for r in (straight, halves))
        )


def test_weight_zero_trains_the_student_as_if_alone(digits, tmp_path):
    alone = train(read_config(PLAIN['cls'], digits, tmp_path / 'alone', 2))
    cfg = config('cls', digits, tmp_path / 'zero')
    cfg.model.distiller.distill_losses.loss_kd.loss_weight = 0.0
    assert_same(alone, train(cfg))


def test_the_export_is_the_student(digits, tmp_path):
    from kdvit_mm.models.utils.checkpoint_kind import student_weights

    runner = run(config('cls', digits, tmp_path, 1))
    saved = torch.load(
        tmp_path / 'epoch_1.pth', map_location='cpu', weights_only=False
    )['state_dict']
    assert any(key.startswith('teacher.') for key in saved)
    assert_same(runner.model.student.state_dict(), student_weights(saved))


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('teacher_in_checkpoint', False, 'Set model.teacher_in_checkpoint=Tr'),
        ('compile_teacher', True, r'whose weights stay\. Leave them out'),
        ('cache', dict(dir='kept'), r'whose weights stay\. Leave them out'),
        ('teacher.backbone.base_channels', 8, 'both have to be one arch'),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    key, value, message, digits, tmp_path
):
    cfg = config('cls', digits, tmp_path)
    cfg.merge_from_dict({f'model.{key}': value})
    if 'base_channels' in key:
        cfg.model.teacher.backbone.stem_channels = 8
        cfg.model.teacher.head.in_channels = 64
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).train()


def test_other_models_and_momenta_are_refused(digits, tmp_path):
    for momentum in (0, 1.5):
        with pytest.raises(ValueError, match='momentum is the share'):
            EMATeacherHook(momentum)
    cfg = read_config(PLAIN['cls'], digits, tmp_path, 1)
    cfg.custom_hooks.append(dict(type='kdvit_mm.EMATeacherHook'))
    with pytest.raises(TypeError, match='needs a LeanTeacherDistill'):
        Runner.from_cfg(cfg).train()
