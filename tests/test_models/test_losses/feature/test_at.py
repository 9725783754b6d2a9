import pytest
import torch

from kdvit_mm.models.losses.feature.at import ATLoss
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    named,
    on_hard_maps,
    train_step,
)


@parametrize('at')
@pytest.mark.parametrize('released', [False, True])
def test_equals_official_code(case, released):
    loss = ATLoss(case.settings['p'], released)
    assert_golden(
        lambda x: loss(named(x, 'student'), named(x, 'teacher')), case
    )


def slow_at(student, teacher, p=2.0):
    """The paper's formula on maps of one size, position by position."""
    total = 0
    for s, t in zip(student, teacher, strict=True):
        q_s, q_t = ((x.abs() ** p).sum(0).flatten() for x in (s, t))
        q_s, q_t = q_s / (q_s @ q_s).sqrt(), q_t / (q_t @ q_t).sqrt()
        total = total + sum((q_s - q_t) ** 2)
    return total / student[:, 0].numel()


@pytest.mark.parametrize('p', [1, 2, 2.5, 3, 4])
@pytest.mark.parametrize('size', [(3, 4), (1, 6), (1, 1)])
def test_equals_the_formula(p, size):
    torch.manual_seed(0)
    student = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 7, *size, dtype=torch.float64)
    loss = ATLoss(p, loss_weight=3.0)(student, teacher)
    expected = 3 * slow_at(student, teacher, p)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_by_hand():
    """Q is (1, 1) and (9, 12): (0.707, 0.707) and (0.6, 0.8) of length 1."""
    student = torch.tensor([[[[1.0, -1.0]]]])
    teacher = torch.tensor([[[[3.0, 0.0]], [[0.0, -(12**0.5)]]]])
    expected = ((0.5**0.5 - 0.6) ** 2 + (0.5**0.5 - 0.8) ** 2) / 2
    assert ATLoss()(student, teacher).item() == pytest.approx(expected)


def blocks(maps, height, width):
    """Averages over blocks, the maps' sizes being multiples."""
    n, c, h, w = maps.shape
    return maps.reshape(n, c, height, h // height, width, w // width).mean(
        (3, 5)
    )


@pytest.mark.parametrize(
    ('student_size', 'teacher_size'),
    [((4, 6), (2, 3)), ((2, 3), (4, 9)), ((2, 8), (4, 4)), ((4, 6), (4, 3))],
)
def test_other_sizes_are_averaged_to_the_smaller(student_size, teacher_size):
    torch.manual_seed(0)
    student = torch.randn(2, 3, *student_size)
    teacher = torch.randn(2, 5, *teacher_size)
    size = [min(x) for x in zip(student_size, teacher_size, strict=True)]
    expected = slow_at(blocks(student, *size), blocks(teacher, *size))
    torch.testing.assert_close(ATLoss()(student, teacher), expected)


def test_squares_and_signs_as_released():
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 4, 4)
    student = torch.randn(2, 5, 8, 2)
    square = blocks(student, 4, 2).repeat_interleave(2, 3)
    loss = ATLoss(released=True)(student, teacher)
    torch.testing.assert_close(loss, slow_at(square, teacher))
    assert not torch.isclose(loss, ATLoss()(student, teacher))

    student = torch.tensor([[[[1.0, -1.0]]]])
    released = ATLoss(1, True)(student, -student)
    assert released.item() == pytest.approx(2)
    assert ATLoss(1)(student, -student).item() == 0


@pytest.mark.parametrize('p', [1, 2, 4])
@on_hard_maps
def test_hard_input(p, dtype, layout, shape):
    assert_robust(ATLoss(p), *hard_pair(dtype, layout, shape))


@pytest.mark.parametrize('p', [1, 2])
def test_a_map_of_zeros_has_no_gradient(p):
    student = torch.zeros(1, 2, 3, 3, requires_grad=True)
    loss = ATLoss(p)(student, torch.ones(1, 1, 3, 3))
    loss.backward()
    assert loss.item() == pytest.approx(1 / 9)
    assert not student.grad.any()


def test_levels_are_summed_and_weighted():
    torch.manual_seed(0)
    students = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    teachers = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 2, 2)]
    expected = sum(map(ATLoss(), students, teachers))
    value = ATLoss(loss_weight=1000)(students, teachers)
    torch.testing.assert_close(value, 1000 * expected)


def test_errors():
    with pytest.raises(ValueError, match='p is at least 1'):
        ATLoss(p=0.5)
    with pytest.raises(ValueError, match=r'p=2\.5.*released=False'):
        ATLoss(p=2.5, released=True)
    with pytest.raises(ValueError, match=r'4-D.*\(2, 3\)'):
        ATLoss()(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match=r'\(2, 3.*\(4, 3.*same images'):
        ATLoss()(torch.randn(2, 3, 4, 4), torch.randn(4, 3, 4, 4))
    with pytest.raises(ValueError, match=r'square.*\(2, 3, 4, 4\)'):
        ATLoss(released=True)(torch.randn(2, 3, 8, 6), torch.randn(2, 3, 4, 3))


def test_on_a_segmentor():
    """All stages of a backbone at once."""
    from tests.test_models.test_losses.test_dist import segmentation_batch

    record = dict(stages=dict(type='ModuleOutputs', source='backbone'))
    distiller = dict(
        student_recorders=record,
        teacher_recorders=record,
        distill_losses=dict(
            loss_at=dict(type='kdvit_mm.ATLoss', loss_weight=1000)
        ),
        loss_forward_mappings=dict(
            loss_at=dict(
                preds_S=dict(recorder='stages', from_student=True),
                preds_T=dict(recorder='stages', from_student=False),
            )
        ),
    )
    algorithm, losses = train_step(
        tiny.fcn(8), tiny.fcn(16), distiller, segmentation_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('stages', side)
        for side in (True, False)
    )
    assert len(student) == 4
    expected = 1000 * sum(map(slow_at, student, teacher))
    torch.testing.assert_close(losses['distill.loss_at'], expected)
