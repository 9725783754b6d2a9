"""Examines a distillation config before it is trained."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import set_random_seed
from mmengine.runner.checkpoint import _load_checkpoint
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.registry import MODELS as RAZOR_MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdvit_mm.analysis.configs import (
    ConfigError,
    build_train_loader,
    explained,
    first_batch,
    model_config,
)
from kdvit_mm.analysis.rehearsal import Rehearsal, StepError, rehearsing
from kdvit_mm.models.utils.checkpoint_kind import whose_weights
from kdvit_mm.models.utils.explain import describe, explain_failure
from kdvit_mm.models.utils.random import isolated_rng

# A distill loss outside of these multiples of the task loss is reported.
TOO_LARGE, TOO_SMALL = 100.0, 1e-3
# A trained teacher's loss is below this share of a fresh model's.
TRAINED_SHARE = 0.8
FRESH_SEEDS = (1, 2, 3)


@dataclass
class ModuleInfo:
    """A module of student or teacher.

    Attributes:
        name (str): Its name, as a recorder's ``source``.
        type (str): Its class.
        params (int): Number of parameters in it.
        shape (str): Shape of its first output; '' if its hooks never ran.
        calls (int): How often its hooks ran in one forward.
    """

    name: str
    type: str
    params: int
    shape: str = ''
    calls: int = 0


@dataclass
class ModelInfo:
    """Student or teacher.

    Attributes:
        type (str): Its class.
        params (int): Number of parameters.
        flops (float | None): Multiply-adds for one image of the batch's size,
            as mmdet counts FLOPs; None if it has no plain forward.
        image (tuple[int, ...]): Shape (C, H, W) of that image.
        modules (list[ModuleInfo]): Its modules.
    """

    type: str
    params: int
    flops: float | None
    image: tuple[int, ...]
    modules: list[ModuleInfo]


@dataclass
class RecorderInfo:
    """A recorder after the forward of its side.

    Attributes:
        side (str): 'student' or 'teacher'.
        name (str): Its key in the config.
        source (str): What it listens to.
        count (int): Number of records.
        shapes (list[str]): Shape of every record.
    """

    side: str
    name: str
    source: str
    count: int
    shapes: list[str]


@dataclass
class LossInfo:
    """A loss on the batch.

    Attributes:
        name (str): Its name in the log.
        value (float): Its value, weight included.
        grad_norm (float): L2 norm of its gradient at the student's trained
            parameters.
        weight (float | None): The distill loss's ``loss_weight``.
        value_ratio (float | None): Value over the summed task loss.
        unweighted_ratio (float | None): The same with a ``loss_weight`` of 1.
        grad_ratio (float | None): Gradient norm over the task loss's.
    """

    name: str
    value: float
    grad_norm: float
    weight: float | None = None
    value_ratio: float | None = None
    unweighted_ratio: float | None = None
    grad_ratio: float | None = None


@dataclass
class Findings:
    """All that an examination brought up.

    Attributes:
        student (ModelInfo | None): The student.
        teacher (ModelInfo | None): The teacher.
        recorders (list[RecorderInfo]): Recorders of both sides.
        task (LossInfo | None): The student's own losses, summed.
        losses (list[LossInfo]): Every loss.
        teacher_loss (float | None): The teacher's own task loss in eval mode.
        fresh_loss (float | None): The lowest task loss of three freshly
            initialised models of the teacher's architecture.
        weights (dict[str, str]): By side, what its weights are loaded from.
        errors (list[str]): Why the config cannot train.
        warnings (list[str]): What is probably not meant.
    """

    student: ModelInfo | None = None
    teacher: ModelInfo | None = None
    recorders: list[RecorderInfo] = field(default_factory=list)
    task: LossInfo | None = None
    losses: list[LossInfo] = field(default_factory=list)
    teacher_loss: float | None = None
    fresh_loss: float | None = None
    weights: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """1 if the config cannot train, else 0."""
        return int(bool(self.errors))


def diagnose(
    config: str,
    cfg_options: dict[str, Any] | None = None,
    depth: int = 2,
    device: str | None = None,
) -> Findings:
    """Builds what a config describes and trains a few steps.

    Args:
        config (str): Path of the config.
        cfg_options (dict[str, Any] | None): Changes to the config. Defaults
            to None.
        depth (int): Levels of nested modules to list. Defaults to 2.
        device (str | None): Where to run. Defaults to None, where training
            would.

    Returns:
        Findings: What was found; it never raises for a mistake in the config.
    """
    findings = Findings()
    try:
        with explained('The config cannot be read'):
            cfg = Config.fromfile(config)
            cfg.merge_from_dict(cfg_options or {})
        scope = cfg.get('default_scope') or 'mmengine'
        with DefaultScope.overwrite_default_scope(scope):
            _examine(findings, cfg, depth, device)
    except ConfigError as reason:
        findings.errors += reason.args
    return findings


def _examine(
    findings: Findings, cfg: Config, depth: int, device: str | None
) -> None:
    seed = cfg.get('randomness', {}).get('seed') or 0
    set_random_seed(seed)
    model = build_algorithm(cfg)
    known = isinstance(model, SingleTeacherDistill) and isinstance(
        model.distiller, ConfigurableDistiller
    )
    if known:
        examine_mappings(findings, model.distiller)
    else:
        findings.warnings.append(
            'The doctor looks into SingleTeacherDistill and its kin with a '
            f'ConfigurableDistiller. Of this {type(model).__name__} it only '
            'says whether it trains.'
        )
    if device is not None:
        _leave_amp_out(findings, cfg, device)
    loader = build_train_loader(cfg, seed)
    batch = first_batch(loader)
    with rehearsing(cfg, model, loader, device) as runner:
        findings.errors += runner.problems
        runner.load_or_resume()
        suspected = len(findings.errors)
        if known:
            examine_weights(findings, cfg, model)
            examine_teacher_setup(findings, model)
            try:
                examine_batch(findings, cfg, model, batch, depth)
            except ConfigError as reason:
                findings.errors += reason.args
        examine_training(findings, runner, suspected)


def _leave_amp_out(findings: Findings, cfg: Config, device: str) -> None:
    """Mixed precision works on no other device than the runner's own."""
    wrapper = cfg.get('optim_wrapper') or {}
    kind = str(wrapper.get('type'))
    if 'AmpOptimWrapper' in kind and not get_device().startswith(device[:3]):
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper['type'] = 'OptimWrapper'
        findings.warnings.append(
            f'optim_wrapper.type "{kind}" trains in mixed precision, which '
            f'this examination on "{device}" leaves out.'
        )


def build_algorithm(cfg: Config) -> Any:
    """Builds and initialises the model as the runner would."""
    if 'model' not in cfg:
        raise ConfigError('The config has no key "model".')
    model_cfg = model_config(cfg)
    if 'distiller' not in model_cfg:
        raise ConfigError(
            f'model.type "{model_cfg.get("type")}" is a plain model: it has '
            'no teacher and no distiller. Put it into '
            "model=dict(_scope_='kdvit_mm', type='LeanTeacherDistill', "
            'architecture=dict(...), teacher=dict(...), teacher_ckpt=..., '
            'distiller=dict(...)).'
        )
    with explained('The model cannot be built'):
        model = MODELS.build(model_cfg)
    with explained("The model's weights cannot be initialised"):
        model.init_weights()
    return model


def examine_mappings(
    findings: Findings, distiller: ConfigurableDistiller
) -> None:
    """Looks for names that are declared but never used, or misnamed."""
    mappings = distiller.loss_forward_mappings
    for name in distiller.distill_losses:
        if name not in mappings:
            findings.warnings.append(
                f'distiller.distill_losses.{name} is never computed: it has '
                f'no mapping. Add distiller.loss_forward_mappings.{name} or '
                'drop the loss.'
            )
        elif 'loss' not in name:
            findings.warnings.append(
                f'distiller.distill_losses.{name} is logged but never '
                'learned from: mmengine sums only names that contain "loss". '
                f'Rename it loss_{name}, in loss_forward_mappings too.'
            )
    used = {
        (record.get('from_student'), record.get('recorder'))
        for mapping in mappings.values()
        for record in mapping.values()
    }
    for side, recorders in _recorders(distiller):
        for name in recorders:
            if (side == 'student', name) not in used:
                findings.warnings.append(
                    f'distiller.{side}_recorders.{name} is used by no '
                    'mapping. Use it in distiller.loss_forward_mappings or '
                    'drop it.'
                )


def _recorders(
    distiller: ConfigurableDistiller,
) -> list[tuple[str, dict[str, Any]]]:
    return [
        ('student', distiller.student_recorders.recorders),
        ('teacher', distiller.teacher_recorders.recorders),
    ]


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


def examine_batch(
    findings: Findings,
    cfg: Config,
    model: SingleTeacherDistill,
    batch: Any,
    depth: int,
) -> None:
    """Runs teacher, fresh models and student, each on a copy of the batch."""
    with explained('The data_preprocessor fails', locate=True):
        data = model.data_preprocessor(batch, True)
    # The teacher first: a lean teacher is rewritten in its first step.
    findings.teacher = examine_teacher(findings, model.teacher, data, depth)
    compare_with_fresh(findings, cfg, data)
    examine_step(findings, model, data, depth)
    assert findings.student is not None
    if findings.student.params > findings.teacher.params:
        findings.warnings.append(
            f'The student has more parameters ({findings.student.params:,}) '
            f'than the teacher ({findings.teacher.params:,}). Are '
            'model.architecture and model.teacher swapped?'
        )


def examine_training(
    findings: Findings, runner: Rehearsal, suspected: int
) -> None:
    """Trains a few steps, which alone decides whether the config can train.

    Args:
        findings (Findings): Receives what fails.
        runner (Rehearsal): The runner.
        suspected (int): Index of the first error that the examination of the
            batch found. These explain why a step fails; if none does, they
            become warnings.
    """
    runner.model.zero_grad()
    try:
        runner.rehearse()
    except StepError as reason:
        if not findings.errors[suspected:]:
            findings.errors += reason.args
    except ConfigError as reason:
        findings.errors += reason.args
    else:
        findings.warnings += findings.errors[suspected:]
        del findings.errors[suspected:]


@contextmanager
def watched_modules(
    model: nn.Module, depth: int
) -> Iterator[list[ModuleInfo]]:
    """Notes the output shapes of a model's modules while inside.

    Args:
        model (nn.Module): The model.
        depth (int): Levels of nested modules to watch.

    Yields:
        list[ModuleInfo]: The modules, filled in as they run.
    """
    infos, handles = [], []

    def watch(module: nn.Module, info: ModuleInfo) -> None:
        def note(module: nn.Module, inputs: Any, outputs: Any) -> None:
            info.calls += 1
            info.shape = info.shape or describe(outputs)

        handles.append(module.register_forward_hook(note))

    for name, module in model.named_modules():
        if name and name.count('.') < depth:
            info = ModuleInfo(name, type(module).__name__, _params(module))
            infos.append(info)
            watch(module, info)
    try:
        yield infos
    finally:
        for handle in handles:
            handle.remove()


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _describe_model(
    model: BaseModel, data: dict[str, Any], modules: list[ModuleInfo]
) -> ModelInfo:
    return ModelInfo(
        type=type(model).__name__,
        params=_params(model),
        flops=count_flops(model, data),
        image=tuple(getattr(data['inputs'], 'shape', ())[1:]),
        modules=[info for info in modules if info.calls or info.params],
    )


def count_flops(model: BaseModel, data: dict[str, Any]) -> float | None:
    """Counts the multiply-adds of convolutions and matrix products.

    mmdet, mmseg and mmpretrain call these FLOPs. Operators of mmcv, such as
    deformable convolutions, are not counted.

    Args:
        model (BaseModel): The model.
        data (dict[str, Any]): A batch, with inputs of shape (N, C, H, W).

    Returns:
        float | None: The count for one image, or None if the model has no
        plain forward.
    """
    training = model.training
    model.eval()
    one = {key: value[:1] for key, value in copy.deepcopy(data).items()}
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**one, mode='tensor')
    except Exception:
        return None
    finally:
        model.train(training)
    return counter.get_total_flops() / 2


def examine_teacher(
    findings: Findings, teacher: BaseModel, data: dict[str, Any], depth: int
) -> ModelInfo:
    """Runs the whole teacher, beyond the last record too."""
    teacher.eval()
    # A teacher whose head does not fit the data can still distil features;
    # where it cannot, the training step says why.
    with watched_modules(teacher, depth) as modules, suppress(Exception):
        findings.teacher_loss = _total_loss(teacher, data)
    return _describe_model(teacher, data, modules)


@torch.no_grad()
def _total_loss(model: BaseModel, data: dict[str, Any]) -> float:
    # Some heads write into the ground truth.
    losses = model(**copy.deepcopy(data), mode='loss')
    return float(model.parse_losses(losses)[0])


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
        model = RAZOR_MODELS.build(teacher_cfg)
        for module in model.modules():
            if '' in _checkpoints(module):
                module.init_cfg = None
        model.init_weights()
        model.to(data['inputs'].device).train()
        return _total_loss(model, data)


def examine_step(
    findings: Findings,
    model: SingleTeacherDistill,
    data: dict[str, Any],
    depth: int,
) -> None:
    """Runs a training step up to the gradients and looks at every loss."""
    model.train()
    try:
        with (
            watched_modules(model.student, depth) as modules,
            _each_failure(findings, model),
            explained('The training step fails', locate=True),
        ):
            losses = model(**copy.deepcopy(data), mode='loss')
    finally:
        # Shows how far a failing forward came.
        findings.student = _describe_model(model.student, data, modules)
    for side, recorders in _recorders(model.distiller):
        for name, recorder in recorders.items():
            records = recorder.data_buffer
            shapes = [describe(record) for record in records]
            findings.recorders.append(
                RecorderInfo(side, name, recorder.source, len(records), shapes)
            )
    with explained('The losses cannot be summed'):
        total, _ = model.parse_losses(losses)
    if not getattr(total, 'requires_grad', False):
        findings.errors.append(
            'No loss has a gradient. Is model.calculate_student_loss or '
            'model.student_trainable off, or is every weight of the student '
            'frozen?'
        )
    with explained('The backward pass fails'):
        examine_losses(findings, model, losses)


@contextmanager
def _each_failure(
    findings: Findings, model: SingleTeacherDistill
) -> Iterator[None]:
    """Notes every distill loss that fails, where training stops at one."""
    distiller = model.distiller
    compute = distiller.compute_distill_losses
    mappings = distiller.loss_forward_mappings

    def compute_all() -> dict[str, torch.Tensor]:
        try:
            return compute()
        except Exception as error:
            failures = []
            for name, mapping in mappings.items():
                distiller.loss_forward_mappings = {name: mapping}
                failure = explain_failure(
                    distiller, error, model.student, model.teacher
                )
                if failure is not error:
                    failures.append(str(failure))
            distiller.loss_forward_mappings = mappings
            findings.errors.extend(
                failures or [f'The distill losses fail: {error}']
            )
            return {}

    distiller.compute_distill_losses = compute_all
    try:
        yield
    finally:
        del distiller.compute_distill_losses


def examine_losses(
    findings: Findings,
    model: SingleTeacherDistill,
    losses: dict[str, torch.Tensor | list[torch.Tensor]],
) -> None:
    """Measures losses and their gradients at the student.

    Args:
        findings (Findings): Receives the losses and what is wrong with them.
        model (SingleTeacherDistill): The algorithm.
        losses (dict[str, torch.Tensor | list[torch.Tensor]]): What its
            forward returned.
    """
    weights = [p for p in model.student.parameters() if p.requires_grad]
    scalars = {
        name: _scalar(loss)
        for name, loss in losses.items()
        if 'loss' in name or name.startswith('distill.')
    }
    own = [v for name, v in scalars.items() if name.startswith('student.')]
    if own:
        task = torch.stack(own).sum()
        findings.task = LossInfo(
            'task', task.item(), _grad_norm(task, weights)
        )
    for name, scalar in scalars.items():
        loss = LossInfo(name, scalar.item(), _grad_norm(scalar, weights))
        key = name.removeprefix('distill.')
        if key != name and key in model.distiller.distill_losses:
            module = model.distiller.distill_losses[key]
            loss.weight = getattr(module, 'loss_weight', None)
        if findings.task is not None:
            loss.value_ratio = _ratio(loss.value, findings.task.value)
            loss.grad_ratio = _ratio(loss.grad_norm, findings.task.grad_norm)
            if loss.value_ratio is not None and loss.weight:
                loss.unweighted_ratio = loss.value_ratio / loss.weight
        findings.losses.append(loss)
        judge_loss(findings, loss, key if key != name else None)


def _scalar(loss: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    """Reduces a loss as mmengine's ``parse_losses`` does."""
    if isinstance(loss, torch.Tensor):
        return loss.mean()
    return torch.stack([item.mean() for item in loss]).sum()


def _grad_norm(loss: torch.Tensor, weights: list[nn.Parameter]) -> float:
    if not loss.requires_grad:
        return 0.0
    for weight in weights:
        weight.grad = None
    # Not autograd.grad: activation checkpointing forbids it.
    loss.backward(retain_graph=True)
    grads = [weight.grad for weight in weights if weight.grad is not None]
    norms = [grad.float().norm() for grad in grads]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _ratio(value: float, of: float) -> float | None:
    return value / of if of else None


def judge_loss(findings: Findings, loss: LossInfo, key: str | None) -> None:
    """Says whether a loss is finite and, for a distill loss, well scaled.

    Args:
        findings (Findings): Receives the verdicts.
        loss (LossInfo): The loss.
        key (str | None): Key in ``distill_losses``; None for a task loss.
    """
    where = f'distiller.distill_losses.{key}'
    if not (math.isfinite(loss.value) and math.isfinite(loss.grad_norm)):
        advice = (
            f'Look at the records that {where} gets, its temperature and its '
            'weight.'
            if key
            else "This is the student's own loss: look at the ground truth "
            'and at data_preprocessor.'
        )
        findings.errors.append(
            f'{loss.name} is not finite: value {loss.value:.4g}, gradient '
            f'norm {loss.grad_norm:.4g}. {advice}'
        )
    elif key is None or loss.weight == 0:
        return
    elif loss.grad_norm == 0:
        findings.warnings.append(
            f'{loss.name} does nothing: its gradient does not reach the '
            f'student (value {loss.value:.4g}, gradient norm 0). Its map may '
            'be 1x1, its record detached, or preds_S mapped to the teacher. '
            f'Drop {where} or map another record.'
        )
    elif loss.value_ratio is not None and loss.grad_ratio is not None:
        _judge_scale(findings, loss, where)


def _judge_scale(findings: Findings, loss: LossInfo, where: str) -> None:
    assert loss.value_ratio is not None and loss.grad_ratio is not None
    if loss.grad_ratio >= TOO_LARGE:
        size, change = 'large', 'Lower'
    elif loss.grad_ratio <= TOO_SMALL:
        size, change = 'small', 'Raise'
    elif abs(loss.value_ratio) >= TOO_LARGE:
        size, change = 'large', ''
    else:
        # A small value with a good gradient is a loss near its minimum.
        return
    if not change:
        advice = (
            'Its gradient, which is what trains, is in range: leave the '
            'weight, unless you train in float16.'
        )
    else:
        advice = f'{change} the weights of {where}'
        if loss.weight:
            advice = (
                f'{change} {where}.loss_weight'
                f': at {loss.weight / loss.grad_ratio:.2g} the two gradients '
                'are equally long'
            )
        advice += '.'
    findings.warnings.append(
        f'{loss.name} is {size} beside the task loss: its value is '
        f'{loss.value_ratio:.3g} times the task loss, its gradient norm '
        f"{loss.grad_ratio:.3g} times the task loss's. {advice}"
    )
