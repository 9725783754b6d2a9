import pytest
import torch

from kdvit_mm.models.losses.response.nkd import NKDLoss
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
    Example(dict(type='NKDLoss', tau=2), labelled),
    # mmpretrain leaves labels where they are.
    Example(dict(type='NKDLoss'), lambda: labelled('cpu')),
]


@parametrize('nkd')
def test_equals_official_code(case):
    loss = NKDLoss(
        gamma=case.settings['gamma'], tau=case.settings['temperature']
    )
    target = case.inputs['target'].long()
    assert_golden(
        lambda x: loss(x['logits_student'], x['logits_teacher'], target), case
    )


def slow_nkd(student, teacher, labels, gamma=1.0, tau=1.0):
    """The paper's formula, row by row."""
    total = 0
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        others = torch.arange(len(z_s)) != y
        o_s, o_t = ((z[others] / tau).softmax(0) for z in (z_s, z_t))
        total = total - z_t.softmax(0)[y] * z_s.softmax(0)[y].log()
        total = total - gamma * tau**2 * (o_t * o_s.log()).sum()
    return total / len(student)


@pytest.mark.parametrize('shape', [(4, 6), (1, 3), (5, 2)])
@pytest.mark.parametrize('tau', [1, 4.0])
def test_equals_the_formula(shape, tau):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    labels = torch.randint(shape[1], shape[:1])
    loss = NKDLoss(1.5, tau, loss_weight=3.0)
    assert_same(
        lambda x: loss(x, teacher, labels),
        lambda x: 3 * slow_nkd(x, teacher, labels, 1.5, tau),
        student,
    )


@on_hard_logits
def test_hard_input(dtype, shape, transposed):
    student, teacher, labels = hard_logits(dtype, shape, transposed)
    assert_robust(lambda s, t: NKDLoss()(s, t, labels), student, teacher)


def test_errors():
    loss, logits = NKDLoss(), torch.randn(2, 3)
    with pytest.raises(ValueError, match='NKDLoss needs the class of each'):
        loss(logits, logits)
    with pytest.raises(ValueError, match='classes differ'):
        loss(logits, logits[:, :2], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='tau'):
        NKDLoss(tau=0)


def test_on_a_classifier():
    distiller = on_logits(dict(type='kdvit_mm.NKDLoss', gamma=1.5, tau=2.0))
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('logits', side)
        for side in (True, False)
    )
    torch.testing.assert_close(
        losses['distill.loss_kd'],
        slow_nkd(student, teacher, [3, 0, 3, 9], 1.5, 2.0),
    )
