import pytest
import torch

from kdvit_mm.models.losses.relation.sp import SPLoss
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)

ONE = r'compares the images.*\(1, .*batch_size.*drop_last=True'


@parametrize('sp')
def test_equals_official_code(case):
    def call(inputs):
        return SPLoss()(inputs['f_s'], inputs['f_t'])

    if len(case.inputs['f_s']) > 1:
        assert_golden(call, case)
        return
    # The official code takes one image and never learns from it.
    assert case.outputs['loss'] == 0
    with pytest.raises(ValueError, match=ONE):
        call(case.inputs)


def slow_sp(student, teacher):
    """The paper's formula, pair by pair of images."""

    def similarities(features):
        rows = [
            torch.stack([(a * b).sum() for b in features]) for a in features
        ]
        return [row / (row @ row).sqrt() for row in rows]

    pairs = zip(similarities(student), similarities(teacher), strict=True)
    return sum(((a - b) ** 2).sum() for a, b in pairs) / len(student) ** 2


@pytest.mark.parametrize(
    'shapes',
    [((2, 3), (2, 3)), ((5, 3, 2, 4), (5, 7)), ((3, 6, 2), (3, 2, 3, 3))],
)
def test_equals_the_formula(shapes):
    torch.manual_seed(0)
    student = torch.randn(shapes[0], dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shapes[1], dtype=torch.float64)
    loss = SPLoss(3.0)(student, teacher)
    expected = 3 * slow_sp(student, teacher)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_by_hand():
    """Rows (1, 0) and (0, 1) against (1, 1) and (1, 1) over √2."""
    student, teacher = torch.eye(2), torch.ones(2, 3)
    expected = 2 * ((1 - 0.5**0.5) ** 2 + 0.5) / 4
    assert SPLoss()(student, teacher).item() == pytest.approx(expected)
    assert SPLoss()(3 * student, student).item() == 0


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    pair = hard_pair(dtype, layout, shape)
    if shape[0] > 1:
        assert_robust(SPLoss(), *pair)


def test_an_image_of_zeros_has_no_gradient():
    features = torch.randn(3, 4)
    student = features.clone()
    student[1] = 0
    student.requires_grad_()
    loss = SPLoss()(student, features)
    loss.backward()
    assert loss > 0
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 10


def test_errors():
    with pytest.raises(ValueError, match=f'^SPLoss {ONE}'):
        SPLoss()(torch.randn(1, 3), torch.randn(1, 3))
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(3, 3\).*same images'):
        SPLoss()(torch.randn(2, 3), torch.randn(3, 3))
    assert SPLoss()(torch.randn(0, 3), torch.randn(0, 3)).item() == 0


def make_distiller():
    record = dict(last=dict(type='ModuleOutputs', source='backbone.layer4'))
    return dict(
        student_recorders=record,
        teacher_recorders=record,
        distill_losses=dict(
            loss_sp=dict(type='kdvit_mm.SPLoss', loss_weight=3000)
        ),
        loss_forward_mappings=dict(
            loss_sp=dict(
                preds_S=dict(recorder='last', from_student=True),
                preds_T=dict(recorder='last', from_student=False),
            )
        ),
    )


def test_on_a_classifier():
    from tests.test_models.test_losses.test_dkd import classification_batch

    algorithm, losses = train_step(
        tiny.resnet(4),
        tiny.resnet(8),
        make_distiller(),
        classification_batch(),
    )
    records = [
        algorithm.distiller.get_record('last', side) for side in (True, False)
    ]
    torch.testing.assert_close(
        losses['distill.loss_sp'], 3000 * slow_sp(*records), rtol=1e-4, atol=0
    )


def test_a_batch_of_one_of_a_classifier():
    """The advice is about the batch, not about the channels."""
    from tests.test_models.test_losses.test_dkd import classification_batch

    batch = {k: v[:1] for k, v in classification_batch().items()}
    with pytest.raises(ValueError, match=rf'"loss_sp".*{ONE}') as error:
        train_step(tiny.resnet(4), tiny.resnet(8), make_distiller(), batch)
    assert 'connector' not in str(error.value)
