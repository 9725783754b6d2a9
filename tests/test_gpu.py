"""Whole training steps on a GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import distributed

from kdvit_mm.catalog import methods
from tests.test_engine.test_training import DISTILLED, read_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason='there is no CUDA device'
    ),
]
CONFIGS = DISTILLED | {
    method.name: method.demo['digits'][0]
    for method in methods('Detection').values()
    if method.demo and method.demo['digits'][0] not in DISTILLED.values()
}


@HOOKS.register_module()
class KeepLosses(Hook):
    """Keeps the loss of every iteration."""

    def before_run(self, runner: Runner) -> None:
        runner.kept_losses = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object, outputs: dict
    ) -> None:
        runner.kept_losses.append(outputs)


@pytest.fixture
def one_rank(tmp_path: Path, monkeypatch) -> Iterator[None]:
    for key, value in dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1).items():
        monkeypatch.setenv(key, str(value))
    distributed.init_process_group(
        'nccl', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def run(
    name: str,
    digits: Path,
    work_dir: Path,
    amp: bool,
    epochs: int = 1,
    resume: bool = False,
) -> Runner:
    steps = 4 if name == 'seg' else epochs
    cfg = read_config(CONFIGS[name], digits, work_dir, steps)
    cfg.model.channels_last = True
    for loss in cfg.model.distiller.distill_losses.values():
        loss.pop('prompt_ckpt', None)
    if amp:
        cfg.optim_wrapper.type = (
            'kdvit_mm.DOTAmpOptimWrapper'
            if name == 'dot'
            else 'mmengine.AmpOptimWrapper'
        )
        cfg.optim_wrapper.dtype = 'bfloat16'
    if name == 'rl':
        hook = cfg.custom_hooks[-1]
        hook.update(update_interval=3, probe_interval=2)
        hook.probe_dataloader.dataset.data_root = f'{digits}/'
        loss = cfg.model.distiller.distill_losses.loss_levels
        loss.grad_norm = dict(alpha=0.5)
    cfg.custom_hooks.append(dict(type='mmengine.KeepLosses'))
    cfg.resume = resume
    cfg.experiment_name = f'{work_dir.name}_{resume}'
    cfg.visualizer.name = f'{work_dir}_{resume}'
    if distributed.is_initialized():
        cfg.launcher = 'pytorch'
    runner = Runner.from_cfg(cfg)
    before = [p.clone() for p in runner.model.parameters() if p.requires_grad]
    runner.train()
    assert runner.kept_losses
    for outputs in runner.kept_losses:
        assert any(key.startswith('distill.') for key in outputs)
        for key, value in outputs.items():
            assert value.device.type == 'cuda', key
            assert value.isfinite(), key
    trained = [p for p in runner.model.parameters() if p.requires_grad]
    assert any(
        not torch.equal(a, b) for a, b in zip(before, trained, strict=True)
    )
    return runner


@pytest.mark.parametrize('amp', [True, False])
@pytest.mark.parametrize('name', CONFIGS)
def test_step_on_a_gpu(name, amp, digits, tmp_path):
    run(name, digits, tmp_path / name, amp)


@pytest.mark.parametrize('name', [*DISTILLED, 'dot', 'rl'])
def test_step_under_nccl(name, digits, tmp_path, one_rank):
    run(name, digits, tmp_path / name, amp=True)


def test_level_selection_resumes_on_a_gpu(digits, tmp_path):
    work_dir = tmp_path / 'rl'
    run('rl', digits, work_dir, amp=False)
    runner = run('rl', digits, work_dir, amp=False, epochs=2, resume=True)
    # Eight iterations, the buffer of the first epoch's last one kept.
    loss = runner.model.distiller.distill_losses.loss_levels
    assert int(loss.controller.selector.updates) == 2
