import pytest
import torch

from kdvit_mm.models.losses.response.annealing_kd import AnnealingKDLoss
from tests import tiny
from tests.examples import Example, pair
from tests.loss_checks import (
    assert_robust,
    assert_same,
    classification_batch,
    hard_logits,
    on_hard_logits,
    on_logits,
    train_step,
)
from tests.test_engine.test_distill_schedule import by_epoch, config, run

EXAMPLES = [Example(dict(type='AnnealingKDLoss', tau=2), lambda: pair(3, 5))]


def slow_stage(epochs, max_tau):
    """The temperature of each epoch of the stage, as the paper's trainer."""
    tau = 1
    for epoch in range(epochs):
        if epoch > 0 and epoch % (epochs // max_tau) == 0:
            tau += 1
        yield tau


def slow_loss(student, teacher, tau, max_tau):
    """The paper's formula, element by element."""
    total, number = 0, 0
    for z_s, z_t in zip(student, teacher, strict=True):
        for s, t in zip(z_s, z_t, strict=True):
            total = total + (s - t * tau / max_tau) ** 2
            number += 1
    return total / number


@pytest.mark.parametrize('tau', [1, 2.5, 4])
@pytest.mark.parametrize('shape', [(4, 6), (1, 3), (3, 1)])
def test_equals_the_formula(shape, tau):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    loss = AnnealingKDLoss(max_tau=4, tau=tau, loss_weight=3.0)
    assert_same(
        lambda x: loss(x, teacher),
        lambda x: 3 * slow_loss(x, teacher, tau, 4),
        student,
    )


def test_the_ramp_of_the_paper_is_the_same_backwards():
    """Its T falls from 10 to 1, with the factor 1 - (T - 1) / 10."""
    teacher = torch.ones(1, 2)
    for falling in range(10, 0, -1):
        loss = AnnealingKDLoss(tau=11 - falling)
        value = loss(torch.zeros(1, 2), teacher)
        expected = torch.tensor((1 - (falling - 1) / 10) ** 2)
        torch.testing.assert_close(value, expected)


def test_the_schedule_hook_makes_the_stairs(digits, tmp_path):
    epochs, max_tau = 4, 2
    stair = epochs // max_tau
    schedules = [
        dict(
            loss='loss_kd',
            key='tau',
            type='constant',
            factor=t,
            begin=stair * (t - 1),
            end=stair * t,
        )
        for t in range(2, max_tau + 1)
    ]
    cfg = config(digits, tmp_path, schedules, epochs)
    cfg.model.distiller.distill_losses.loss_kd = dict(
        type='kdvit_mm.AnnealingKDLoss', max_tau=max_tau
    )
    _, rows = run(cfg)
    assert by_epoch(rows, 'tau') == list(slow_stage(epochs, max_tau))


@on_hard_logits
def test_hard_input(dtype, shape, transposed):
    student, teacher, _ = hard_logits(dtype, shape, transposed)
    assert_robust(AnnealingKDLoss(), student, teacher)


def test_errors():
    logits = torch.randn(2, 3)
    with pytest.raises(
        ValueError, match=r'tau=5 is above max_tau=4.*DistillScheduleHook'
    ):
        AnnealingKDLoss(max_tau=4, tau=5)(logits, logits)
    with pytest.raises(ValueError, match='classes differ'):
        AnnealingKDLoss()(logits, logits[:, :2])
    with pytest.raises(ValueError, match='tau'):
        AnnealingKDLoss(tau=0)


def test_on_a_classifier():
    distiller = on_logits(
        dict(type='kdvit_mm.AnnealingKDLoss', tau=4), with_samples=False
    )
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('logits', side)
        for side in (True, False)
    )
    torch.testing.assert_close(
        losses['distill.loss_kd'], slow_loss(student, teacher, 4, 10)
    )
