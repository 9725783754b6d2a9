import pytest
import torch

from kdvit_mm.models.losses.response.normkd import NormKDLoss
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
from tests.test_models.test_losses.response.test_dkd import slow_dkd

EXAMPLES = [
    Example(dict(type='NormKDLoss', loss=dict(type=kind)), labelled)
    for kind in ('KDLoss', 'DKDLoss')
]


@parametrize('normkd')
def test_equals_official_code(case):
    settings, target = case.settings, case.inputs.get('target')
    inside = None
    if target is not None:
        weights = {key: settings[key] for key in ('alpha', 'beta')}
        inside = dict(type='DKDLoss', **weights)
        target = target.long()
    loss = NormKDLoss(tau=settings['t_norm'], loss=inside)
    assert_golden(
        lambda x: loss(x['logits_student'], x['logits_teacher'], target), case
    )


def slow_normkd(student, teacher, tau, row_loss):
    """The paper's formula, row by row."""
    total = 0
    for n, (z_s, z_t) in enumerate(zip(student, teacher, strict=True)):
        t_s, t_t = (
            tau * ((z - z.mean()).square().sum() / (len(z) - 1)).sqrt()
            for z in (z_s, z_t)
        )
        total = total + t_t**2 * row_loss(z_s / t_s, z_t / t_t, n)
    return total / len(student)


def divergence(z_s, z_t, n):
    p_s, p_t = z_s.softmax(0), z_t.softmax(0)
    return (p_t * (p_t / p_s).log()).sum()


@pytest.mark.parametrize('shape', [(4, 6), (1, 3)])
@pytest.mark.parametrize('tau', [1.0, 2.0])
def test_equals_the_formula(shape, tau):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    labels = torch.randint(shape[1], shape[:1])
    loss = NormKDLoss(tau, loss_weight=3.0)
    assert_same(
        lambda x: loss(x, teacher),
        lambda x: 3 * slow_normkd(x, teacher, tau, divergence),
        student,
    )
    dkd = NormKDLoss(tau, dict(type='DKDLoss', beta=8.0, loss_weight=2.0))

    def row_loss(z_s, z_t, n):
        return slow_dkd(z_s[None], z_t[None], labels[n : n + 1], 1.0, 8.0)

    assert_same(
        lambda x: dkd(x, teacher, labels),
        lambda x: 2 * slow_normkd(x, teacher, tau, row_loss),
        student,
    )


def test_the_scale_of_a_network_does_not_change_what_is_compared():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    loss = NormKDLoss()
    torch.testing.assert_close(
        loss(100 * student, teacher), loss(student, teacher)
    )


@pytest.mark.parametrize('inside', [None, dict(type='DKDLoss')])
@on_hard_logits
def test_hard_input(inside, dtype, shape, transposed):
    student, teacher, labels = hard_logits(dtype, shape, transposed)
    loss = NormKDLoss(tau=2.0, loss=inside)
    if shape[1] == 2:
        with pytest.raises(ValueError, match=r'3 classes or more.*distance'):
            loss(student, teacher, labels)
    else:
        assert_robust(lambda s, t: loss(s, t, labels), student, teacher)


@pytest.mark.parametrize('value', [0.0, 3.0])
def test_equal_logits(value):
    """Such as those of a classifier that begins with zeros."""
    student = torch.full((2, 4), value, requires_grad=True)
    for teacher in (student, torch.randn(2, 4)):
        loss = NormKDLoss()(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    loss = NormKDLoss()(torch.randn(2, 4), student)
    assert loss.isfinite()


def test_errors():
    logits = torch.randn(2, 3)
    with pytest.raises(ValueError, match='NormKDLoss needs the class of each'):
        NormKDLoss(loss=dict(type='DKDLoss'))(logits, logits)
    with pytest.raises(ValueError, match='a KDLoss or a DKDLoss, got DISTL'):
        NormKDLoss(loss=dict(type='DISTLoss'))
    with pytest.raises(ValueError, match='classes differ'):
        NormKDLoss()(logits, logits[:, :2])
    with pytest.raises(ValueError, match='tau'):
        NormKDLoss(tau=0)


@pytest.mark.parametrize('inside', [None, dict(type='DKDLoss', beta=2.0)])
def test_on_a_classifier(inside):
    distiller = on_logits(
        dict(type='kdvit_mm.NormKDLoss', tau=2.0, loss=inside),
        with_samples=inside is not None,
    )
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('logits', side)
        for side in (True, False)
    )
    labels = [3, 0, 3, 9]

    def dkd(z_s, z_t, n):
        return slow_dkd(z_s[None], z_t[None], labels[n : n + 1], 1.0, 2.0)

    torch.testing.assert_close(
        losses['distill.loss_kd'],
        slow_normkd(student, teacher, 2.0, dkd if inside else divergence),
    )
