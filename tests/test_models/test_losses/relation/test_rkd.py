import pytest
import torch

from kdvit_mm.models.losses.relation.rkd import RKDLoss
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)


@parametrize('rkd')
def test_equals_official_code(case):
    loss = RKDLoss(
        case.settings['distance_weight'],
        case.settings['angle_weight'],
        squared=case.settings.get('squared', False),
    )

    def call(inputs):
        return loss(inputs['f_s'], inputs['f_t'])

    if len(case.inputs['f_s']) > 2:
        assert_golden(call, case)
        return
    # Two images: 0 but for rounding, in the recorded numbers, too.
    student = case.inputs['f_s'].requires_grad_()
    value = call(case.inputs)
    value.backward()
    for number in (value, student.grad, case.outputs['loss']):
        assert number.abs().max() < 1e-12


def slow_rkd(student, teacher, w_d, w_a, l2_norm=False, squared=False):
    """The paper's formula, pair by pair and triple by triple of images."""
    images = range(len(student))

    def huber(a, b):
        error = (a - b).abs()
        return error - 0.5 if error > 1 else error**2 / 2

    def potentials(rows):
        rows = rows.flatten(1)
        if l2_norm:
            rows = [row / (row @ row).sqrt() for row in rows]

        def length(v):
            return (v @ v).sqrt()

        power = 2 if squared else 1
        distances = {
            (i, j): length(rows[i] - rows[j]) ** power
            for i in images
            for j in images
            if i != j
        }
        mean = sum(distances.values()) / len(distances)
        angles = {
            (i, j, k): (rows[j] - rows[i])
            @ (rows[k] - rows[i])
            / length(rows[j] - rows[i])
            / length(rows[k] - rows[i])
            for i in images
            for j in images
            for k in images
            if i not in (j, k)
        }
        return {key: d / mean for key, d in distances.items()}, angles

    (d_s, a_s), (d_t, a_t) = potentials(student), potentials(teacher)
    n = len(student)
    return (
        w_d * sum(huber(d_s[key], d_t[key]) for key in d_s) / n**2
        + w_a * sum(huber(a_s[key], a_t[key]) for key in a_s) / n**3
    )


@pytest.mark.parametrize('l2_norm', [False, True])
@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize(
    'shapes', [((4, 3), (4, 5)), ((5, 2, 3, 2), (5, 3)), ((3, 2, 4), (3, 8))]
)
def test_equals_the_formula(shapes, l2_norm, squared):
    torch.manual_seed(0)
    student = torch.randn(shapes[0], dtype=torch.float64, requires_grad=True)
    teacher = 3 * torch.randn(shapes[1], dtype=torch.float64)
    options = dict(l2_norm=l2_norm, squared=squared)
    loss = RKDLoss(25, 50, **options, loss_weight=2)(student, teacher)
    expected = 2 * slow_rkd(student, teacher, 25, 50, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_by_hand():
    """A triangle of sides 3, 4 and 5 against one of equal sides."""
    student = torch.tensor([[0.0, 0], [3, 0], [0, 4]])
    teacher = torch.eye(3)
    distances = [(d - 1) ** 2 / 2 for d in (3 / 4, 1, 5 / 4)]
    expected = 2 * sum(distances) / 9
    loss = RKDLoss(1, 0)(student, teacher)
    assert loss.item() == pytest.approx(expected)
    angles = [(a - 1 / 2) ** 2 / 2 for a in (0, 3 / 5, 4 / 5)]
    loss = RKDLoss(0, 1)(student, teacher)
    assert loss.item() == pytest.approx(2 * sum(angles) / 27)


@pytest.mark.parametrize('l2_norm', [False, True])
@on_hard_maps
def test_hard_input(l2_norm, dtype, layout, shape):
    pair = hard_pair(dtype, layout, (4, *shape[1:]))
    assert_robust(RKDLoss(l2_norm=l2_norm), *pair)


def test_small_distances_of_large_embeddings():
    """As of features after a ReLU: float32 keeps what float64 does."""
    torch.manual_seed(0)
    student, teacher = 100 + 0.1 * torch.randn(2, 6, 50)
    student.requires_grad_()
    exact = student.detach().double().requires_grad_()
    for w_d, w_a in ((1, 0), (0, 1)):
        loss = RKDLoss(w_d, w_a)(student, teacher)
        expected = slow_rkd(exact, teacher.double(), w_d, w_a)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
        (ours,) = torch.autograd.grad(loss, student)
        (theirs,) = torch.autograd.grad(expected, exact)
        scale = theirs.abs().max().item()
        torch.testing.assert_close(
            ours.double(), theirs, rtol=0, atol=1e-5 * scale
        )


@pytest.mark.parametrize('value', [0.0, 1e4])
def test_equal_embeddings_have_no_angle(value):
    torch.manual_seed(0)
    teacher = torch.randn(4, 3)
    student = value + torch.randn(4, 3)
    student[1] = student[0]
    student.requires_grad_()
    loss = RKDLoss()(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 100
    collapsed = torch.full((4, 3), value, requires_grad=True)
    loss = RKDLoss()(collapsed, teacher)
    loss.backward()
    assert loss.isfinite()
    assert not collapsed.grad.any()


def test_errors():
    for shape in ((1, 3), (1, 3, 2, 2)):
        with pytest.raises(
            ValueError,
            match=r'^RKDLoss compares the images.*\(1, 3.*drop_last=True',
        ):
            RKDLoss()(torch.randn(shape), torch.randn(shape))
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(3, 3\).*same images'):
        RKDLoss()(torch.randn(2, 3), torch.randn(3, 3))
    assert RKDLoss()(torch.randn(0, 3), torch.randn(0, 3)).item() == 0


def test_on_a_classifier():
    from tests.test_models.test_losses.test_dkd import classification_batch

    record = dict(pooled=dict(type='ModuleOutputs', source='neck'))
    mapping = dict(recorder='pooled', data_idx=0)
    distiller = dict(
        student_recorders=record,
        teacher_recorders=record,
        distill_losses=dict(loss_rkd=dict(type='kdvit_mm.RKDLoss')),
        loss_forward_mappings=dict(
            loss_rkd=dict(
                preds_S=dict(mapping, from_student=True),
                preds_T=dict(mapping, from_student=False),
            )
        ),
    )
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    records = [
        algorithm.distiller.get_record(**mapping, from_student=side)
        for side in (True, False)
    ]
    torch.testing.assert_close(
        losses['distill.loss_rkd'],
        slow_rkd(*records, 25, 50),
        rtol=1e-4,
        atol=0,
    )
