import pytest
import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.feature.pkd import PKDLoss
from tests import tiny
from tests.examples import Example, maps, neck, pair
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    named,
    on_hard_maps,
    train_step,
)

EXAMPLES = [
    Example(
        dict(type='PKDLoss'),
        neck,
        'neck',
    ),
    Example(
        dict(type='PKDLoss', resize_stu=False),
        lambda: dict(preds_S=maps(2, 4, 6, 5), preds_T=maps(2, 4, 7, 8)),
    ),
    Example(dict(type='PKDLoss'), lambda: pair(1, 4, 1, 1)),
]


@parametrize('pkd')
def test_equals_official_code(case):
    loss = PKDLoss(
        loss_weight=case.settings['loss_weight'],
        resize_stu=case.settings['resize_stu'],
    )
    assert_golden(
        lambda x: loss(named(x, 'preds_S'), named(x, 'preds_T')), case
    )


def slow_pkd(student, teacher):
    """The paper's formula, channel by channel."""
    errors = []
    for c in range(student.size(1)):
        s, t = student[:, c].flatten(), teacher[:, c].flatten()
        s, t = (
            (x - x.mean())
            / (((x - x.mean()) ** 2).sum().div(len(x) - 1).sqrt() + 1e-6)
            for x in (s, t)
        )
        errors.append(((s - t) ** 2).mean())
    return sum(errors) / len(errors) / 2


@pytest.mark.parametrize('shape', [(1, 3, 5, 2), (3, 2, 1, 1), (2, 1, 1, 9)])
def test_equals_the_formula(shape):
    torch.manual_seed(0)
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    loss = PKDLoss(loss_weight=3.0)(student, teacher)
    expected = 3 * slow_pkd(student, teacher)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_is_one_minus_pearsons_correlation():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 64, 64, dtype=torch.float64)
    teacher = teacher + student
    r = [
        torch.corrcoef(torch.stack([s.flatten(), t.flatten()]))[0, 1]
        for s, t in zip(student.unbind(1), teacher.unbind(1), strict=True)
    ]
    expected = 1 - torch.stack(r).mean()
    loss = PKDLoss()(7 * student - 3, teacher)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    assert_robust(PKDLoss(), *hard_pair(dtype, layout, shape))


def test_a_constant_channel():
    torch.manual_seed(0)
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = PKDLoss()(student, torch.randn(2, 3, 4, 4))
    loss.backward()
    # Half of (M - 1) / M, what the teacher's variance alone gives.
    torch.testing.assert_close(loss.item(), 31 / 64, rtol=1e-4, atol=0)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('size', [(8, 6), (4, 12), (8, 12), (3, 2)])
def test_resizes_by_height_and_width(size):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 3, *size)
    resized = F.interpolate(student, size, mode='bilinear')
    torch.testing.assert_close(
        PKDLoss()(student, teacher), PKDLoss()(resized, teacher)
    )
    resized = F.interpolate(teacher, (4, 6), mode='bilinear')
    torch.testing.assert_close(
        PKDLoss(resize_stu=False)(student, teacher),
        PKDLoss()(student, resized),
    )


def test_errors():
    maps = torch.randn(2, 3, 4, 4)
    with pytest.raises(
        ValueError, match=r'\(2, 3, 4, 4\).*\(2, 6, 8, 4\).*out_channel=6'
    ):
        PKDLoss()(maps, torch.randn(2, 6, 8, 4))
    with pytest.raises(ValueError, match='2 levels and preds_T has 1'):
        PKDLoss()((maps, maps), (maps,))


def test_on_a_detector():
    fpn = dict(fpn=dict(type='ModuleOutputs', source='neck'))
    distiller = dict(
        student_recorders=fpn,
        teacher_recorders=fpn,
        distill_losses=dict(
            loss_pkd=dict(type='kdvit_mm.PKDLoss', loss_weight=6)
        ),
        loss_forward_mappings=dict(
            loss_pkd=dict(
                preds_S=dict(from_student=True, recorder='fpn'),
                preds_T=dict(from_student=False, recorder='fpn'),
            )
        ),
    )
    algorithm, losses = train_step(
        tiny.gfl(8), tiny.gfl(16), distiller, tiny.detection_batch(size=64)
    )
    student, teacher = (
        algorithm.distiller.get_record('fpn', side) for side in (True, False)
    )
    expected = 6 * sum(map(slow_pkd, student, teacher))
    torch.testing.assert_close(losses['distill.loss_pkd'], expected)
