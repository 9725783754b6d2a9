"""Looks at the teacher: its weights, how it is fed and what it knows."""

import copy
from contextlib import suppress
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.registry import MODELS
from torch import nn

from kdvit_mm.analysis.configs import run_losses
from kdvit_mm.analysis.doctor.findings import Findings, ModelInfo
from kdvit_mm.analysis.doctor.models import describe_model, watched_modules
from kdvit_mm.models.utils.checkpoint_kind import whose_weights
from kdvit_mm.models.utils.random import isolated_rng

# A trained teacher's loss is below this share of a fresh model's.
TRAINED_SHARE = 0.8
FRESH_SEEDS = (1, 2, 3)


def examine_weights(
    findings: Findings, cfg: Config, model: SingleTeacherDistill
) -> None:
    """Says from where student and teacher have their weights.

    Args:
        findings (Findings): Receives ``weights`` and what is missing.
        cfg (Config): The config.
        model (SingleTeacherDistill): The algorithm.
    """
    owner, teacher_loaded = '', False
    if cfg.get('load_from'):
        checkpoint = _load_checkpoint(
            cfg.load_from, map_location='cpu', logger='silent'
        )
        state = {
            key.removeprefix('module.'): value
            for key, value in checkpoint.get('state_dict', checkpoint).items()
        }
        owner = whose_weights(model, state)
        # LeanTeacherDistill leaves a teacher alone that it does not save.
        teacher_loaded = getattr(model, 'teacher_in_checkpoint', True) and any(
            key.startswith('teacher.') for key in state
        )
    student = _initialised_by(model.architecture)
    if getattr(model, 'inherit', False):
        student += "; what model.inherit names is the teacher's"
    if owner:
        student = f'load_from: {cfg.load_from}'
    teacher_cfg = cfg.model.teacher
    teacher = _initialised_by(model.teacher)
    if teacher_loaded:
        teacher = f'load_from: {cfg.load_from}'
    elif cfg.model.get('teacher_ckpt'):
        teacher = f'teacher_ckpt: {cfg.model.teacher_ckpt}'
    elif teacher_cfg.get('cfg_path') and teacher_cfg.get('pretrained'):
        teacher = f'the checkpoint of cfg_path {teacher_cfg.cfg_path}'
    elif '' not in _checkpoints(model.teacher):
        findings.warnings.append(
            'The teacher looks untrained: nothing loads its weights'
            + (", and load_from has only the student's. " if owner else '. ')
            + 'Set model.teacher_ckpt to its checkpoint.'
        )
    findings.weights = {'student': student, 'teacher': teacher}


def _initialised_by(model: nn.Module) -> str:
    """What ``init_cfg`` of a model and of its parts loads, in words."""
    checkpoints = _checkpoints(model)
    if '' in checkpoints:
        return f'init_cfg: {checkpoints[""]}'
    parts = [f'{name}: {file}' for name, file in checkpoints.items()]
    return '; '.join([*parts, 'the rest random' if parts else 'random'])


def _checkpoints(model: nn.Module) -> dict[str, str]:
    """Checkpoints by the names of the modules whose ``init_cfg`` has one."""
    return {
        name: init['checkpoint']
        for name, module in model.named_modules()
        for init in _inits(getattr(module, 'init_cfg', None))
        if init.get('type') == 'Pretrained'
    }


def _inits(init_cfg: Any) -> list[dict[str, Any]]:
    inits = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    return [init for init in inits if init]


def examine_teacher_setup(
    findings: Findings, model: SingleTeacherDistill
) -> None:
    """Looks at how the teacher is frozen and fed."""
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    trainable = sum(id(p) in trained for p in model.teacher.parameters())
    if trainable:
        findings.warnings.append(
            f'{trainable} weights of the teacher require gradients, so the '
            'optimiser changes them. Unless that is meant, set '
            'model.teacher_trainable=False and do not unfreeze the teacher.'
        )
    teacher = _normalisation(model.teacher.data_preprocessor)
    fed = _normalisation(model.data_preprocessor)
    # A teacher without a data_preprocessor of its own says nothing.
    if any(teacher.values()):
        for key, value in teacher.items():
            if value != fed[key]:
                findings.warnings.append(
                    f'The teacher expects {key}={value}, but both models are '
                    "fed by the student's data_preprocessor, with "
                    f'{key}={fed[key]}. Give model.architecture and '
                    'model.teacher the same data_preprocessor, or take a '
                    'teacher trained with the one of the student.'
                )


def _normalisation(preprocessor: Any) -> dict[str, Any]:
    """What a data preprocessor does to pixel values."""
    normalises = getattr(preprocessor, '_enable_normalize', False)
    conversion = any(
        # mmengine and mmdet, mmseg, mmpretrain.
        getattr(preprocessor, name, False)
        for name in ('_channel_conversion', 'channel_conversion', 'to_rgb')
    )
    return {
        'mean': _rounded(preprocessor.mean) if normalises else None,
        'std': _rounded(preprocessor.std) if normalises else None,
        'bgr_to_rgb': conversion,
    }


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 3) for value in values.double().flatten().tolist()]


def examine_teacher(
    findings: Findings, teacher: BaseModel, data: dict[str, Any], depth: int
) -> ModelInfo:
    """Runs the whole teacher, beyond the last record too."""
    teacher.eval()
    # A teacher whose head does not fit the data can still distil features;
    # where it cannot, the training step says why.
    with watched_modules(teacher, depth) as modules, suppress(Exception):
        findings.teacher_loss = _total_loss(teacher, data)
    return describe_model(teacher, data, modules)


@torch.no_grad()
def _total_loss(model: BaseModel, data: dict[str, Any]) -> float:
    return float(model.parse_losses(run_losses(model, data))[0])


def compare_with_fresh(
    findings: Findings, cfg: Config, data: dict[str, Any]
) -> None:
    """Compares the teacher's task loss with that of fresh models.

    The teacher runs in eval mode, as it distils. The fresh models run in
    train mode, as the running statistics of their batch norms mean nothing.
    An untrained teacher does not get clearly below what they lose.
    """
    if findings.teacher_loss is None:
        return
    with suppress(Exception):
        findings.fresh_loss = min(
            _fresh_loss(cfg, data, seed) for seed in FRESH_SEEDS
        )
    if findings.fresh_loss is None:
        return
    if not findings.teacher_loss < TRAINED_SHARE * findings.fresh_loss:
        findings.warnings.append(
            'The teacher looks untrained: its task loss on the batch is '
            f'{findings.teacher_loss:.4g}, that of freshly initialised '
            f'models of its architecture {findings.fresh_loss:.4g}. Check '
            'that model.teacher_ckpt holds a teacher trained for these '
            'classes and this data_preprocessor.'
        )


def _fresh_loss(cfg: Config, data: dict[str, Any], seed: int) -> float:
    teacher_cfg = copy.deepcopy(cfg.model.teacher)
    if 'pretrained' in teacher_cfg:
        teacher_cfg.pretrained = None
    with (
        isolated_rng(seed),
        DefaultScope.overwrite_default_scope(cfg.model.get('_scope_')),
    ):
        model = MODELS.build(teacher_cfg)
        for module in model.modules():
            if '' in _checkpoints(module):
                module.init_cfg = None
        model.init_weights()
        model.to(data['inputs'].device).train()
        return _total_loss(model, data)
