import pytest
import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.response.dtkd import DTKDLoss
from tests import tiny
from tests.examples import Example, pair
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

EXAMPLES = [Example(dict(type='DTKDLoss', tau=2), lambda: pair(3, 5))]


@parametrize('dtkd')
def test_equals_official_code(case):
    """With the task's cross-entropy and the warm-up, which it has inside."""
    settings = case.settings
    loss = DTKDLoss(
        alpha=settings['alpha'],
        beta=settings['beta'],
        tau=settings['T'],
        loss_weight=min(settings['epoch'] / settings['warmup'], 1.0),
    )
    target = case.inputs['target'].long()
    assert_golden(
        lambda x: (
            loss(x['logits_student'], x['logits_teacher'])
            + settings['ce_weight']
            * F.cross_entropy(x['logits_student'], target)
        ),
        case,
    )


def slow_dtkd(student, teacher, alpha, beta, tau):
    """The paper's formula, row by row."""

    def kl(z_s, z_t, t_s, t_t):
        p_s, p_t = (z_s / t_s).softmax(0), (z_t / t_t).softmax(0)
        return t_s * t_t * (p_t * (p_t / p_s).log()).sum()

    total = 0
    for z_s, z_t in zip(student, teacher, strict=True):
        t_s, t_t = (
            2 * tau * z.max() / (z_s.max() + z_t.max()) for z in (z_s, z_t)
        )
        if z_s.max() <= 0 or z_t.max() <= 0:
            t_s = t_t = tau
        total = total + alpha * kl(z_s, z_t, t_s, t_t)
        total = total + beta * kl(z_s, z_t, tau, tau)
    return total / len(student)


@pytest.mark.parametrize('shape', [(40, 2), (4, 6), (1, 3)])
def test_equals_the_formula(shape):
    """Of 40 rows of two classes, many have no class above 0."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    loss = DTKDLoss(3.0, 0.5, 4.0, loss_weight=2.0)
    assert_same(
        lambda x: loss(x, teacher),
        lambda x: 2 * slow_dtkd(x, teacher, 3.0, 0.5, 4.0),
        student,
    )


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [([-1.0, -2.0], [3.0, 1.0]), ([-3.0, -4.0], [3.0, 1.0]), ([0, 0], [0, 0])],
)
def test_without_a_logit_above_0(student, teacher):
    """One below 0, the two cancelling out, both 0: the plain temperature."""
    student = torch.tensor([student], dtype=torch.float64)
    teacher = torch.tensor([teacher], dtype=torch.float64)
    plain, dynamic = DTKDLoss(alpha=0.0, tau=2.0), DTKDLoss(beta=0.0, tau=2.0)
    assert_same(
        lambda x: dynamic(x, teacher), lambda x: plain(x, teacher), student
    )


@on_hard_logits
def test_hard_input(dtype, shape, transposed):
    student, teacher, _ = hard_logits(dtype, shape, transposed)
    assert_robust(DTKDLoss(tau=4.0), student, teacher)


def test_errors():
    logits = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r'DTKDLoss: .*classes differ'):
        DTKDLoss()(logits, logits[:, :2])
    with pytest.raises(ValueError, match='tau'):
        DTKDLoss(tau=0)


def test_on_a_classifier():
    distiller = on_logits(
        dict(type='kdvit_mm.DTKDLoss', alpha=3.0, tau=4.0), with_samples=False
    )
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('logits', side)
        for side in (True, False)
    )
    torch.testing.assert_close(
        losses['distill.loss_kd'], slow_dtkd(student, teacher, 3.0, 1.0, 4.0)
    )
