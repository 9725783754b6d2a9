"""What every distill loss is tested for."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from mmrazor.registry import MODELS

import kdvit_mm  # noqa: F401
from tests.golden import Case

LAYOUTS = {
    'contiguous': lambda maps: maps.contiguous(),
    'channels_last': lambda maps: maps.contiguous(
        memory_format=torch.channels_last
    ),
    'strided': lambda maps: maps.repeat_interleave(2, dim=-1)[..., ::2],
}


def named(tensors: dict[str, torch.Tensor], name: str) -> Any:
    """The tensor ``name``, or the list of ``name.0``, ``name.1``, …."""
    if name in tensors:
        return tensors[name]
    keys = sorted(key for key in tensors if key.startswith(f'{name}.'))
    return [tensors[key] for key in keys]


def assert_golden(
    call: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    case: Case,
    module: torch.nn.Module | None = None,
) -> None:
    """Compares value and gradients, in float64 and in float32.

    ``call`` computes the loss from the case's inputs; gradients named
    ``param:`` are those of ``module``.
    """
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        inputs = {
            key: tensor.to(dtype, copy=True).requires_grad_(key in case.grads)
            if tensor.is_floating_point()
            else tensor
            for key, tensor in case.inputs.items()
        }
        if module is not None:
            module.to(dtype)
            module.zero_grad()
        loss = call(inputs)
        assert loss.dtype == dtype
        loss.backward()
        pairs = {'loss': (loss.detach(), case.outputs['loss'])}
        parameters = dict(module.named_parameters()) if module else {}
        for key, expected in case.grads.items():
            leaf = (
                parameters[key.removeprefix('param:')]
                if key.startswith('param:')
                else inputs[key]
            )
            assert leaf.grad is not None, key
            pairs[key] = (leaf.grad, expected)
        # One scale for all: a bias before a batch norm has gradient 0.
        scale = max(g.abs().max().item() for g in case.grads.values())
        atol = tolerance * scale
        for key, (actual, expected) in pairs.items():
            torch.testing.assert_close(
                actual.double(),
                expected,
                rtol=tolerance,
                atol=0 if key == 'loss' else atol,
                msg=partial('{} in {}: {}'.format, key, dtype),
            )


HARD = [
    (dtype, layout, shape)
    for dtype, layout, shape in itertools.product(
        (torch.float16, torch.bfloat16, torch.float32, torch.float64),
        LAYOUTS,
        ((2, 5, 13, 7), (1, 4, 5, 3), (2, 3, 1, 1), (1, 3, 1, 1)),
    )
]
on_hard_maps = pytest.mark.parametrize(('dtype', 'layout', 'shape'), HARD)


def hard_pair(
    dtype: torch.dtype, layout: str, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teacher's features of a magnitude of 1e4."""
    generator = torch.Generator().manual_seed(sum(shape))
    pair = 1e4 * (2 * torch.rand((2, *shape), generator=generator) - 1)
    student, teacher = (LAYOUTS[layout](maps.to(dtype)) for maps in pair)
    return student.requires_grad_(), teacher


on_hard_logits = pytest.mark.parametrize(
    ('dtype', 'shape', 'transposed'),
    list(
        itertools.product(
            (torch.float16, torch.bfloat16, torch.float32, torch.float64),
            ((6, 5), (1, 3), (4, 2)),
            (False, True),
        )
    ),
)


def hard_logits(
    dtype: torch.dtype, shape: tuple[int, int], transposed: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student's and teacher's logits of a magnitude of 1e4, and labels."""
    generator = torch.Generator().manual_seed(sum(shape))
    pair = 1e4 * (2 * torch.rand((2, *shape), generator=generator) - 1)
    student, teacher = (logits.to(dtype) for logits in pair)
    if transposed:
        student = student.t().contiguous().t()
    labels = torch.randint(shape[1], shape[:1], generator=generator)
    return student.requires_grad_(), teacher, labels


def assert_robust(
    call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    student: torch.Tensor,
    teacher: torch.Tensor,
) -> None:
    """Finite, and equal to float64 on the same values, autocast or not."""
    exact = student.detach().double().contiguous().requires_grad_()
    expected = call(exact, teacher.double().contiguous())
    (slope,) = torch.autograd.grad(expected, exact)
    assert expected.isfinite()
    assert slope.isfinite().all()
    full = torch.promote_types(student.dtype, torch.float32)
    for autocast in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            loss = call(student, teacher.requires_grad_())
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.dtype == full
        assert gradient.dtype == student.dtype
        assert gradient.isfinite().all()
        torch.testing.assert_close(
            loss.detach().double(), expected.detach(), rtol=1e-4, atol=1e-5
        )
        # The gradient itself is rounded to the input's precision.
        torch.testing.assert_close(
            gradient.double(),
            slope,
            rtol=0,
            atol=1e-7 + 0.01 * slope.abs().max().item(),
        )


def assert_same(
    call: Callable[[torch.Tensor], torch.Tensor],
    slow: Callable[[torch.Tensor], torch.Tensor],
    student: torch.Tensor,
) -> None:
    """Value and gradient equal those of a slow form in float64."""
    student = student.detach().requires_grad_()
    loss, expected = call(student), slow(student)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student)[0] for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def classification_batch() -> dict:
    """Four random images of 32 px with a class and an index each."""
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8
    )
    samples = [
        DataSample(metainfo=dict(sample_idx=index)).set_gt_label(label)
        for index, label in enumerate((3, 0, 3, 9))
    ]
    return dict(inputs=list(images), data_samples=samples)


def on_logits(loss: dict, with_samples: bool = True) -> dict:
    """The distiller of a loss on the logits of two classifiers."""
    record = dict(
        logits=dict(type='ModuleOutputs', source='head.fc'),
        samples=dict(type='ModuleInputs', source=''),
    )
    mapping = dict(
        preds_S=dict(from_student=True, recorder='logits'),
        preds_T=dict(from_student=False, recorder='logits'),
    )
    if with_samples:
        mapping['data_samples'] = dict(
            from_student=True, recorder='samples', data_idx=1
        )
    return dict(
        student_recorders=record,
        teacher_recorders=dict(logits=record['logits']),
        distill_losses=dict(loss_kd=loss),
        loss_forward_mappings=dict(loss_kd=mapping),
    )


def on_class_maps(loss: dict, with_samples: bool = False) -> dict:
    """The distiller of a loss on the class maps of two classifiers."""
    distiller = on_logits(loss, with_samples)
    recorders = dict(
        maps=dict(type='kdvit_mm.PooledMap', source='neck.gap'),
        fc=dict(type='kdvit_mm.Module', source='head.fc'),
    )
    mapping = distiller['loss_forward_mappings']['loss_kd']
    for key, side in (('S', True), ('T', False)):
        name = 'student_recorders' if side else 'teacher_recorders'
        distiller[name] = distiller[name] | recorders
        mapping[f'preds_{key}'] = dict(
            from_student=side, recorder='maps', data_idx=0
        )
        mapping[f'fc_{key}'] = dict(from_student=side, recorder='fc')
    return distiller


def train_step(
    student: dict, teacher: dict, distiller: dict, batch: dict
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Builds the algorithm and makes a step; returns it with a second loss.

    The recorders hold what these distill losses were computed from.
    """
    torch.manual_seed(0)
    algorithm = MODELS.build(
        dict(
            type='kdvit_mm.LeanTeacherDistill',
            architecture=student,
            teacher=teacher,
            distiller=dict(type='ConfigurableDistiller', **distiller),
        )
    )
    algorithm.init_weights()
    algorithm.train()
    data = algorithm.data_preprocessor(batch, True)
    optimizer = torch.optim.SGD(algorithm.parameters(), 1e-3)
    for is_first in (True, False):
        losses = algorithm(**data, mode='loss')
        distill = {k: v for k, v in losses.items() if 'distill.' in k}
        sum(distill.values()).backward()
        gradients = [
            parameter.grad
            for parameter in algorithm.architecture.parameters()
            if parameter.grad is not None
        ]
        assert any(gradient.abs().sum() > 0 for gradient in gradients)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert all(p.grad is None for p in algorithm.teacher.parameters())
        if is_first:
            optimizer.step()
            optimizer.zero_grad()
    return algorithm, distill
