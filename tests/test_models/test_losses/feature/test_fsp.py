import pytest
import torch

from kdvit_mm.models.losses.feature.fsp import FSPLoss
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


@parametrize('fsp')
def test_equals_official_code(case):
    assert_golden(
        lambda x: FSPLoss()(named(x, 'student'), named(x, 'teacher')), case
    )


def slow_fsp(students, teachers):
    """The paper's matrices, of maps of one size, entry by entry."""

    def entry(first, second, n, c, d):
        return (first[n, c] * second[n, d]).mean()

    total = 0
    for i in range(len(students) - 1):
        errors = [
            entry(*students[i : i + 2], n, c, d)
            - entry(*teachers[i : i + 2], n, c, d)
            for n in range(len(students[0]))
            for c in range(students[i].size(1))
            for d in range(students[i + 1].size(1))
        ]
        total = total + sum(e**2 for e in errors) / len(errors)
    return total


def layers(channels, sizes, batch=2):
    return [
        torch.randn(batch, c, *size, dtype=torch.float64)
        for c, size in zip(channels, sizes, strict=True)
    ]


@pytest.mark.parametrize('batch', [1, 3])
def test_equals_the_formula(batch):
    """Student's and teacher's maps may have other sizes."""
    torch.manual_seed(0)
    students = layers([2, 3, 4], [(4, 3)] * 3, batch)
    teachers = layers([2, 3, 4], [(2, 5)] * 3, batch)
    students = [x.requires_grad_() for x in students]
    loss = FSPLoss(loss_weight=2)(students, teachers)
    expected = 2 * slow_fsp(students, teachers)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    for ours, theirs in zip(
        *(
            torch.autograd.grad(x, students, retain_graph=True)
            for x in (loss, expected)
        ),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_by_hand():
    """Means of products: 1 · 3 and 2 · 4 give 5.5, 1 · 1 and 1 · 1 give 1."""
    students = [torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 4.0]]]])]
    ones = [torch.ones(1, 1, 1, 2)] * 2
    assert FSPLoss()(students, ones).item() == pytest.approx(4.5**2)


def test_neighbours_of_other_sizes_are_averaged_to_the_smaller():
    torch.manual_seed(0)
    students, teachers = (
        layers([3, 4], [(4, 6), (2, 12)]),
        layers([3, 4], [(2, 3)] * 2),
    )
    small = [
        students[0].reshape(2, 3, 2, 2, 6).mean(3),
        students[1].reshape(2, 4, 2, 6, 2).mean(4),
    ]
    expected = slow_fsp(small, teachers)
    torch.testing.assert_close(FSPLoss()(students, teachers), expected)


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    """Gradients grow with the third power: 1e4 is no number for float16."""
    student, teacher = hard_pair(dtype, layout, shape)
    assert_robust(
        lambda s, t: FSPLoss(1e-9)([s, s.relu()], [t, t]), student, teacher
    )


def test_errors():
    maps = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r'one alone.*\(2, 3, 4, 4\).*two or'):
        FSPLoss()(maps, maps)
    with pytest.raises(ValueError, match=r'in_channel=3, out_channel=5'):
        FSPLoss()([maps, maps], [maps, torch.randn(2, 5, 4, 4)])
    with pytest.raises(ValueError, match='2 levels and preds_T has 1'):
        FSPLoss()([maps, maps], [maps])


def test_on_a_classifier():
    from tests.test_models.test_losses.test_dkd import classification_batch

    record = dict(stages=dict(type='ModuleOutputs', source='backbone'))
    distiller = dict(
        student_recorders=record,
        teacher_recorders=record,
        distill_losses=dict(loss_fsp=dict(type='kdvit_mm.FSPLoss')),
        loss_forward_mappings=dict(
            loss_fsp=dict(
                preds_S=dict(recorder='stages', from_student=True),
                preds_T=dict(recorder='stages', from_student=False),
            )
        ),
    )
    models = [tiny.resnet(4), tiny.resnet(4)]
    for model, depth in zip(models, (18, 34), strict=True):
        model.backbone.update(depth=depth, out_indices=(0, 1, 2, 3))
    algorithm, losses = train_step(*models, distiller, classification_batch())
    records = [
        algorithm.distiller.get_record('stages', side)
        for side in (True, False)
    ]
    assert [x.size(1) for x in records[0]] == [4, 8, 16, 32]
    torch.testing.assert_close(losses['distill.loss_fsp'], FSPLoss()(*records))
