import math

import pytest
import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.response.wsld import WSLDLoss
from tests import tiny
from tests.examples import Example, labelled
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    assert_same,
    classification_batch,
    hard_logits,
    on_hard_logits,
    on_logits,
    train_step,
)

EXAMPLES = [
    Example(dict(type='WSLDLoss', tau=2), labelled),
    # mmpretrain leaves labels where they are.
    Example(dict(type='WSLDLoss'), lambda: labelled('cpu')),
]


@parametrize('wsld')
def test_equals_official_code(case):
    """With the cross-entropy of the task, which it adds."""
    settings = case.settings
    loss = WSLDLoss(tau=settings['T'], loss_weight=settings['alpha'])
    target = case.inputs['target'].long()
    assert_golden(
        lambda x: (
            F.cross_entropy(x['logits_student'], target)
            + loss(x['logits_student'], x['logits_teacher'], target)
        ),
        case,
    )


def slow_wsld(student, teacher, labels, tau):
    """The paper's formula, row by row."""
    total = 0
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        h_s, h_t = (-z.softmax(0)[y].log().item() for z in (z_s, z_t))
        weight = 1 - math.exp(-h_s / (h_t + 1e-7))
        p_s, p_t = ((z / tau).softmax(0) for z in (z_s, z_t))
        total = total - weight * (p_t * p_s.log()).sum()
    return tau**2 * total / len(student)


@pytest.mark.parametrize('tau', [1, 4.0])
@pytest.mark.parametrize('shape', [(4, 6), (1, 2)])
def test_equals_the_formula(shape, tau):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    labels = torch.randint(shape[1], shape[:1])
    loss = WSLDLoss(tau, loss_weight=3.0)
    assert_same(
        lambda x: loss(x, teacher, labels),
        lambda x: 3 * slow_wsld(x, teacher, labels, tau),
        student,
    )


def test_nothing_is_learned_where_the_student_knows_all():
    student = torch.tensor([[60.0, 0, 0]], requires_grad=True)
    loss = WSLDLoss()(student, torch.zeros(1, 3), torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


@on_hard_logits
def test_hard_input(dtype, shape, transposed):
    student, teacher, labels = hard_logits(dtype, shape, transposed)
    assert_robust(lambda s, t: WSLDLoss()(s, t, labels), student, teacher)


def test_errors():
    loss, logits = WSLDLoss(), torch.randn(2, 3)
    with pytest.raises(ValueError, match='WSLDLoss needs the class of each'):
        loss(logits, logits)
    with pytest.raises(ValueError, match=r'WSLDLoss: labels from 0 to 3'):
        loss(logits, logits, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match='classes differ'):
        loss(logits, logits[:, :2], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='tau'):
        WSLDLoss(tau=-1)


def test_on_a_classifier():
    distiller = on_logits(dict(type='kdvit_mm.WSLDLoss', tau=2.0))
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('logits', side)
        for side in (True, False)
    )
    torch.testing.assert_close(
        losses['distill.loss_kd'],
        slow_wsld(student, teacher, [3, 0, 3, 9], 2.0),
    )


def test_soft_labels_are_refused():
    student = tiny.resnet(4)
    student.data_preprocessor.batch_augments = dict(
        augments=dict(type='Mixup', alpha=1.0)
    )
    with pytest.raises(
        ValueError,
        match=r'WSLDLoss: .*remove Mixup or CutMix.*KDLoss, DISTLoss or',
    ):
        train_step(
            student,
            tiny.resnet(8),
            on_logits(dict(type='kdvit_mm.WSLDLoss')),
            classification_batch(),
        )
