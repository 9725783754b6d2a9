import pytest
import torch

from kdvit_mm.models.losses.feature.hcl import HCLLoss
from tests.examples import Example, neck
from tests.golden import parametrize

EXAMPLES = [Example(dict(type='HCLLoss'), neck, 'neck')]


@parametrize('reviewkd', 'hcl')
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)]
)
def test_golden(case, dtype, tolerance):
    student = case.inputs['student.0'].to(dtype, copy=True).requires_grad_()
    loss = HCLLoss()(student, case.inputs['teacher.0'].to(dtype))
    loss.backward()
    for actual, expected in [
        (loss, case.outputs['loss']),
        (student.grad, case.grads['student.0']),
    ]:
        torch.testing.assert_close(
            actual, expected.to(dtype), rtol=tolerance, atol=tolerance / 100
        )


def _regions(size, number):
    """Bounds of the regions of an adaptive average, from the definition."""
    return [
        slice(i * size // number, -(-(i + 1) * size // number))
        for i in range(number)
    ]


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 9), (3, 17), (8, 2)])
@pytest.mark.parametrize('batch', [1, 2])
def test_equals_a_loop(size, batch):
    student, teacher = torch.randn(2, batch, 3, *size, dtype=torch.float64)
    student.requires_grad_()
    total = expected = 0
    for weight, number in [(8, None), (4, 4), (2, 2), (1, 1)]:
        if number is None:
            errors = [(student - teacher) ** 2]
        elif number >= size[0]:
            continue
        else:
            # The weight is that of the position among the terms used.
            errors = [
                (student - teacher)[..., rows, columns].mean((-2, -1)) ** 2
                for rows in _regions(size[0], number)
                for columns in _regions(size[1], number)
            ]
        used = 2.0 ** -([8, 4, 2, 1].index(weight) - _skipped(size, weight))
        expected += used * torch.stack(errors).mean()
        total += used
    expected = 3 * expected / total
    loss = HCLLoss(3.0)([student], [teacher])
    for ours, theirs in (
        (loss, expected),
        [torch.autograd.grad(x, student)[0] for x in (loss, expected)],
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-16)


def _skipped(size, weight):
    numbers = [4, 2, 1][: [8, 4, 2, 1].index(weight)]
    return sum(number >= size[0] for number in numbers)


def test_sums_over_levels():
    student = [torch.randn(2, 3, 6, 6), torch.randn(2, 4, 1, 1)]
    teacher = [torch.randn_like(x) for x in student]
    torch.testing.assert_close(
        HCLLoss()(student, teacher),
        HCLLoss()(student[0], teacher[0]) + HCLLoss()(student[1], teacher[1]),
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    student = (1e4 * torch.randn(2, 3, 7, 5).clamp(-1, 1)).to(dtype)
    teacher = (1e4 * torch.randn(2, 3, 7, 5).clamp(-1, 1)).to(dtype)
    teacher.requires_grad_()
    student = student.contiguous(memory_format=torch.channels_last)
    student.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        loss = HCLLoss()(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, HCLLoss()(student.double(), teacher.double()).float()
    )
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_says_what_does_not_fit():
    maps = [torch.zeros(2, 3, 4, 4)] * 2
    with pytest.raises(ValueError, match=r'2 levels.*has 1'):
        HCLLoss()(maps, maps[:1])
    with pytest.raises(ValueError, match=r'\(2, 3, 4, 4\).*connector'):
        HCLLoss()(maps[0], torch.zeros(2, 5, 4, 4))
