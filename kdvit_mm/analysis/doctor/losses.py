"""Looks at the distill losses: names, records, values and gradients."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn

from kdvit_mm.analysis.configs import explained, run_losses
from kdvit_mm.analysis.doctor.findings import Findings, LossInfo, RecorderInfo
from kdvit_mm.analysis.doctor.models import describe_model, watched_modules
from kdvit_mm.models.utils.explain import describe, explain_failure

# A distill loss outside of these multiples of the task loss is reported.
TOO_LARGE, TOO_SMALL = 100.0, 1e-3


def examine_mappings(
    findings: Findings, distiller: ConfigurableDistiller
) -> None:
    """Looks for names that are declared but never used, or misnamed."""
    mappings = distiller.loss_forward_mappings
    for name in distiller.distill_losses:
        if name not in mappings:
            findings.warnings.append(
                f'model.distiller.distill_losses.{name} is never computed: '
                'it has no mapping. Add '
                f'model.distiller.loss_forward_mappings.{name} or drop the '
                'loss.'
            )
        elif 'loss' not in name:
            findings.warnings.append(
                f'model.distiller.distill_losses.{name} is logged but never '
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
                    f'model.distiller.{side}_recorders.{name} is used by no '
                    'mapping. Use it in model.distiller.loss_forward_mappings '
                    'or drop it.'
                )


def _recorders(
    distiller: ConfigurableDistiller,
) -> list[tuple[str, dict[str, Any]]]:
    return [
        ('student', distiller.student_recorders.recorders),
        ('teacher', distiller.teacher_recorders.recorders),
    ]


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
            losses = run_losses(model, data)
    finally:
        # Shows how far a failing forward came.
        findings.student = describe_model(model.student, data, modules)
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
    where = f'model.distiller.distill_losses.{key}'
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
        advice = f'{change} the weights of {where}.'
        if loss.weight:
            advice = (
                f'{change} its weight: with {where}.loss_weight='
                f'{loss.weight / loss.grad_ratio:.2g} the two gradients are '
                'equally long.'
            )
    findings.warnings.append(
        f'{loss.name} is {size} beside the task loss: its value is '
        f'{loss.value_ratio:.3g} times the task loss, its gradient norm '
        f"{loss.grad_ratio:.3g} times the task loss's. {advice}"
    )
