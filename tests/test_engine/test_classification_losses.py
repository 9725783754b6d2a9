"""Whole trainings with losses that need more than logits."""

import copy

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tests.loss_checks import on_class_maps, on_logits
from tests.test_engine.test_training import DISTILLED, read_config

LSKD = dict(
    type='LogitStandardise', loss=dict(type='KDLoss', tau=2, loss_weight=9)
)


@HOOKS.register_module()
class KeepDistillLosses(Hook):
    """Keeps the distill loss of each iteration, and its rows."""

    def before_train(self, runner) -> None:
        self.values: list[float] = []
        self.rows: list[int] = []

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        self.values.append(outputs['distill.loss_kd'].item())
        record = runner.model.distiller.get_record('logits', True)
        self.rows.append(len(record))


def run(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    (hook,) = (h for h in runner.hooks if isinstance(h, KeepDistillLosses))
    metrics = runner.message_hub.get_scalar('val/accuracy/top1').current()
    return hook, metrics


@pytest.mark.parametrize('method', ['sdd_lskd', 'catkd', 'mlld'])
def test_one_epoch(method, digits, tmp_path):
    cfg = read_config(DISTILLED['cls'], digits, tmp_path, 1)
    cfg.custom_hooks.append(dict(type='KeepDistillLosses'))
    distiller = {
        'sdd_lskd': on_class_maps(
            dict(type='kdvit_mm.ScaleDecouple', loss=LSKD), True
        ),
        'catkd': on_class_maps(dict(type='kdvit_mm.CATKDLoss')),
        'mlld': on_logits(dict(type='kdvit_mm.MLLDLoss')),
    }[method]
    cfg.model.distiller = dict(type='ConfigurableDistiller', **distiller)
    batch = cfg.train_dataloader.batch_size
    if method == 'mlld':
        cfg.model.architecture.data_preprocessor.type = (
            'kdvit_mm.TwoViewDataPreprocessor'
        )
        load, *weak, pack = cfg.train_dataloader.dataset.pipeline
        strong = [
            *copy.deepcopy(weak),
            dict(type='mmpretrain.Solarize', thr=128, prob=1.0),
        ]
        views = dict(
            type='mmpretrain.MultiView',
            num_views=[1, 1],
            transforms=[weak, strong],
        )
        cfg.train_dataloader.dataset.pipeline = [load, views, pack]
        batch *= 2
    hook, metric = run(cfg)
    assert len(hook.values) == 10
    assert all(0 < value < float('inf') for value in hook.values)
    assert set(hook.rows) == {batch}
    assert 0 <= metric <= 100
