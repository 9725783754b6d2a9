"""Whole trainings with real runners, on CPU, bit for bit."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

DEMO = Path(__file__).resolve().parents[2] / 'configs' / 'demo'
PLAIN = dict(
    det='gfl_r18-w0.125_fpn_4e_digits-96',
    seg='fcn_r18-w0.125-d8_1k_digits-128',
    cls='resnet18-w0.0625_10e_digits-32',
)
DISTILLED = dict(
    det='cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96',
    seg='cwd_logits_pspnet_r18-w0.5_fcn_r18-w0.125_1k_digits-128',
    cls='kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32',
)


def read_config(name: str, data: Path, work_dir: Path, steps: int) -> Config:
    """A demo config on the small data, without its teacher's checkpoint."""
    cfg = Config.fromfile(DEMO / f'{name}.py')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.data_root = f'{data}/'
        cfg[f'{part}_dataloader'].batch_size = 4
        # In this process, where random numbers of all kinds can meet.
        cfg[f'{part}_dataloader'].num_workers = 0
    for part in ('val', 'test'):
        if 'ann_file' in cfg[f'{part}_evaluator']:
            cfg[f'{part}_evaluator'].ann_file = f'{data}/annotations/val.json'
    by_epoch = 'Epoch' in cfg.train_cfg.type
    cfg.train_cfg.update(
        {'max_epochs' if by_epoch else 'max_iters': steps, 'val_interval': 1}
    )
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger.interval = 1
    if 'teacher' in cfg.model:
        cfg.model.teacher_ckpt = None
    cfg.work_dir = str(work_dir)
    cfg.log_level = 'WARNING'
    cfg.experiment_name = work_dir.name
    return cfg


def train(cfg: Config) -> dict[str, torch.Tensor]:
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = getattr(runner.model, 'student', runner.model)
    return model.state_dict()


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    differing = [k for k in first if not torch.equal(first[k], second[k])]
    assert not differing


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_weight_zero_trains_the_student_as_if_alone(task, digits, tmp_path):
    steps = 3 if task == 'seg' else 2
    alone = train(read_config(PLAIN[task], digits, tmp_path / 'alone', steps))
    cfg = read_config(DISTILLED[task], digits, tmp_path / 'zero', steps)
    for loss in cfg.model.distiller.distill_losses.values():
        loss.loss_weight = 0.0
    assert_same(alone, train(cfg))
    cfg = read_config(DISTILLED[task], digits, tmp_path / 'with', steps)
    weights = train(cfg)
    assert any(not torch.equal(alone[key], weights[key]) for key in alone)


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_resumed_training_equals_training_straight(task, digits, tmp_path):
    """With photometric augmentation, dropout and validation in between."""
    name = DISTILLED[task]
    straight = train(read_config(name, digits, tmp_path / 'straight', 2))
    cfg = read_config(name, digits, tmp_path / 'halves', 2)
    unit = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    # The schedule is that of the whole run, so training ends by exception.
    cfg.custom_hooks.append(dict(type='StopAfter', unit=unit))
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    cfg = read_config(name, digits, tmp_path / 'halves', 2)
    cfg.resume = True
    cfg.experiment_name = 'second_half'
    assert_same(straight, train(cfg))


@HOOKS.register_module()
class StopAfter(Hook):
    """Interrupts a run in its second epoch or iteration."""

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        step = runner.epoch if self.unit == 'max_epochs' else runner.iter
        if step == 1:
            raise KeyboardInterrupt


@HOOKS.register_module()
class CollectLosses(Hook):
    """Keeps the names of the losses of every iteration."""

    names: list = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs) -> None:
        self.names.append(set(outputs))


def test_detach_hook_ends_distillation(digits, tmp_path):
    cfg = read_config(DISTILLED['cls'], digits, tmp_path / 'detach', 2)
    cfg.custom_hooks += [
        dict(type='mmrazor.DistillationLossDetachHook', detach_epoch=1),
        dict(type='CollectLosses'),
    ]
    train(cfg)
    both, alone = {'student.loss', 'distill.loss_kd'}, {'student.loss'}
    # 40 crops in batches of 4, twice.
    found = [names - {'loss'} for names in CollectLosses.names]
    assert found == [both] * 10 + [alone] * 10


def test_detach_hook_refuses_a_plain_model(digits, tmp_path):
    cfg = read_config(PLAIN['cls'], digits, tmp_path / 'plain', 1)
    cfg.custom_hooks.append(
        dict(type='kdvit_mm.DistillationLossDetachHook', detach_epoch=0)
    )
    with pytest.raises(TypeError, match='Remove it from custom_hooks'):
        train(cfg)


def test_checkpoint_holds_no_teacher(digits, tmp_path):
    cfg = read_config(DISTILLED['cls'], digits, tmp_path / 'small', 1)
    train(cfg)
    state = torch.load(
        tmp_path / 'small' / 'epoch_1.pth',
        map_location='cpu',
        weights_only=False,
    )['state_dict']
    assert {key.split('.')[0] for key in state} == {'architecture'}


def test_optimizer_leaves_the_teacher_alone(digits, tmp_path):
    cfg = read_config(DISTILLED['cls'], digits, tmp_path / 'frozen', 1)
    runner = Runner.from_cfg(cfg)
    before = {
        k: v.clone() for k, v in runner.model.teacher.state_dict().items()
    }
    # The weights stay those just read.
    runner.model.init_weights = lambda: None
    runner.train()
    assert_same(before, runner.model.teacher.state_dict())


def test_missing_data_names_the_command(tmp_path):
    cfg = read_config(PLAIN['det'], tmp_path / 'none', tmp_path / 'w', 1)
    with pytest.raises(FileNotFoundError, match=r'digit_scenes\.py'):
        train(cfg)
