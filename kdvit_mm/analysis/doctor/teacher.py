"""Looks at the teacher: its weights, how it is fed and what it knows."""

import copy
from contextlib import suppress
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint
from mmrazor.models.algorithms import SingleTeacherDistill
from torch import nn

from kdvit_mm.analysis.configs import run_losses
from kdvit_mm.analysis.doctor.findings import Findings, ModelInfo
from kdvit_mm.analysis.doctor.models import describe_model, watched_modules
from kdvit_mm.models.algorithms.lean_teacher import LeanTeacher
from kdvit_mm.models.algorithms.multi_teacher_distill import Teachers
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
    owner, saved = '', set()
    # mmrazor's algorithms save it.
    keeps_teacher = not hasattr(model, 'lean_teachers')
    if cfg.get('load_from'):
        checkpoint = _load_checkpoint(
            cfg.load_from, map_location='cpu', logger='silent'
        )
        state = {
            key.removeprefix('module.'): value
            for key, value in checkpoint.get('state_dict', checkpoint).items()
        }
        owner = whose_weights(model, state)
        saved = {key for key in state if key.startswith('teacher.')}
    student = _initialised_by(model.architecture)
    if any(teacher.get('inherit') for teacher in teachers_of(cfg)):
        student += "; what inherit names is the teacher's"
    if owner:
        student = f'load_from: {cfg.load_from}'
    findings.weights = {'student': student}
    for teacher in teachers_of(cfg):
        name = teacher.get('name', '')
        network = getattr(model.teacher, name) if name else model.teacher
        start = f'teacher.{name}.' if name else 'teacher.'
        # LeanTeacherDistill leaves a teacher alone that it does not save.
        loaded = teacher.get('teacher_in_checkpoint', keeps_teacher) and any(
            key.startswith(start) for key in saved
        )
        own = teacher.teacher
        by = _initialised_by(network)
        if loaded:
            by = f'load_from: {cfg.load_from}'
        elif teacher.get('teacher_ckpt'):
            by = f'teacher_ckpt: {teacher.teacher_ckpt}'
        elif own.get('cfg_path') and own.get('pretrained'):
            by = f'the checkpoint of cfg_path {own.cfg_path}'
        elif '' not in _checkpoints(network):
            which = f'teacher "{name}"' if name else 'teacher'
            findings.warnings.append(
                f'The {which} looks untrained: nothing loads its weights'
                + (
                    ", and load_from has only the student's. "
                    if owner
                    else '. '
                )
                + 'Set model.teacher_ckpt to its checkpoint.'
            )
        findings.weights[start[:-1]] = by


def teachers_of(cfg: Config) -> list[ConfigDict]:
    """What the model of a config says of each of its teachers.

    Args:
        cfg (Config): The config.

    Returns:
        list[ConfigDict]: The model itself, or the entries of ``teachers``.
    """
    return list(cfg.model.get('teachers') or [cfg.model])


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
    lean_teachers = getattr(model, 'lean_teachers', ())
    networks = [x.network for x in lean_teachers if not _prepares_own(x)]
    for network in networks if lean_teachers else [model.teacher]:
        _compare_normalisation(findings, model, network)


def _prepares_own(lean: LeanTeacher) -> bool:
    return lean.input is not None and lean.input.own_preprocessor


def _compare_normalisation(
    findings: Findings, model: SingleTeacherDistill, network: BaseModel
) -> None:
    teacher = _normalisation(network.data_preprocessor)
    fed = _normalisation(model.data_preprocessor)
    # A teacher without a data_preprocessor of its own says nothing.
    if any(teacher.values()):
        for key, value in teacher.items():
            if value != fed[key]:
                findings.warnings.append(
                    f'The teacher expects {key}={value}, but both models are '
                    "fed by the student's data_preprocessor, with "
                    f'{key}={fed[key]}. Set teacher_input='
                    'dict(own_preprocessor=True), give model.architecture and '
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
    configs = {
        teacher.get('name', 'only'): copy.deepcopy(teacher.teacher)
        for teacher in teachers_of(cfg)
    }
    for teacher in configs.values():
        if 'pretrained' in teacher:
            teacher.pretrained = None
    with (
        isolated_rng(seed),
        DefaultScope.overwrite_default_scope(cfg.model.get('_scope_')),
    ):
        model = Teachers(configs)
        for module in model.modules():
            if '' in _checkpoints(module):
                module.init_cfg = None
        model.init_weights()
        model.to(data['inputs'].device).train()
        return _total_loss(model, data)
