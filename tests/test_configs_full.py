"""Every full-scale config, at its full size, on small images and the CPU.

What needs a download is left out: pre-trained weights and checkpoints of
teachers. All else is what a run on eight GPUs builds.
"""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from torch import nn

from tests.tiny import detection_batch

ROOT = Path(__file__).resolve().parents[1] / 'configs'
DISTILL = sorted((ROOT / 'distill').rglob('*.py'))
PROMPTS = [c for c in DISTILL if c.stem.startswith('freekd_prompts_')]
PAIRS = [c for c in DISTILL if c not in PROMPTS]
STUDENTS = sorted((ROOT / 'students').rglob('*.py'))
PRETRAIN = sorted((ROOT / 'pretrain').glob('*.py'))
SIZE = 64


@functools.cache
def parsed(config: Path) -> Config:
    return Config.fromfile(config)


def teacher_of(config: Path) -> str:
    return parsed(config).model.teacher.cfg_path


def named(config: Path) -> str:
    return config.stem


@pytest.fixture
def scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def offline(cfg: Any) -> Any:
    """Drops what is downloaded, and mmseg's padding to a full crop."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            offline(item)
    elif isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in ('pretrained', 'teacher_ckpt') or (
                key == 'init_cfg' and value['type'] == 'Pretrained'
            ):
                cfg[key] = None
            offline(value)
        if cfg.get('type') == 'SegDataPreProcessor':
            cfg['size'] = (SIZE, SIZE)
    return cfg


# One at a time: the largest has 95 million parameters.
@functools.lru_cache(maxsize=1)
def built_teacher(cfg_path: str) -> nn.Module:
    package = cfg_path.split('::')[0]
    with DefaultScope.overwrite_default_scope(package):
        teacher = MODELS.build(offline(get_config(cfg_path).model))
    # As after loading teacher_ckpt.
    teacher._is_init = True
    return teacher


def build(cfg: Config, **changes: Any) -> nn.Module:
    """Builds a config's model as the runner does."""
    cfg = offline(copy.deepcopy(cfg._cfg_dict))
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(dict(cfg.model, **changes))
    model.init_weights()
    model.train()
    return model


def batch(scope: str) -> dict:
    if scope == 'mmdet':
        return detection_batch(size=SIZE)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        image = torch.randint(
            256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8
        )
        if scope == 'mmseg':
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE)))
            truth = torch.randint(19, (1, SIZE, SIZE), generator=generator)
            sample.gt_sem_seg = PixelData(data=truth)
        else:
            from mmpretrain.structures import DataSample

            sample = DataSample().set_gt_label(3)
        samples.append(dict(inputs=image, data_samples=sample))
    return pseudo_collate(samples)


def train_one_step(model: nn.Module, cfg: Config) -> dict[str, float]:
    """Trains a step with the config's optimiser and returns the losses."""
    torch.manual_seed(0)
    optimiser = build_optim_wrapper(model, cfg.optim_wrapper)
    data = model.data_preprocessor(batch(cfg.default_scope), True)
    with optimiser.optim_context(model):
        losses = model(**data, mode='loss')
    total, logged = model.parse_losses(losses)
    optimiser.backward(total)
    # DistributedDataParallel waits for the gradient of each of them.
    assert [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    ] == []
    optimiser.step()
    values = {name: float(value) for name, value in logged.items()}
    assert all(torch.isfinite(torch.tensor([*values.values()])))
    assert all(torch.isfinite(w).all() for w in model.parameters())
    return values


def trained_parts(model: nn.Module) -> dict[str, torch.Tensor]:
    """A trainable weight of each part of a model, as it is now."""
    return {
        name: [w for w in part.parameters() if w.requires_grad][0].clone()
        for name, part in model.named_children()
        if any(w.requires_grad for w in part.parameters())
    }


@pytest.mark.parametrize('config', sorted(PAIRS, key=teacher_of), ids=named)
def test_distillation_step(config, scope, tmp_path):
    cfg = parsed(config)
    prompts = cfg.model.distiller.distill_losses.get('loss_freekd')
    changes = dict(teacher=built_teacher(cfg.model.teacher.cfg_path))
    if prompts is not None:
        distiller = cfg.model.distiller.to_dict()
        distiller['distill_losses']['loss_freekd']['prompt_ckpt'] = str(
            learned_prompts(prompts, tmp_path / 'prompts.pth')
        )
        changes['distiller'] = distiller
    model = build(cfg, **changes)
    before = trained_parts(model.student)
    assert list(before) == ['backbone', *list(before)[1:]]
    kept = [weight.clone() for weight in model.teacher.parameters()]
    losses = train_one_step(model, cfg)
    assert {
        name: losses[f'distill.{name}']
        for name in model.distiller.distill_losses
        if not losses[f'distill.{name}'] > 0
    } == {}
    for name, weight in trained_parts(model.student).items():
        assert not torch.equal(weight, before[name]), name
    assert all(map(torch.equal, kept, model.teacher.parameters()))
    for module in model.teacher.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


def learned_prompts(loss: dict, path: Path) -> Path:
    state = {
        f'mask_modules.{index}.mask_token': torch.randn(
            4, loss['num_tokens'], channels
        )
        for index, channels in enumerate(loss['channels'])
    }
    torch.save(dict(state_dict=state), path)
    return path
