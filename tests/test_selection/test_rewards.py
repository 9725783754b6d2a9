"""Rewards on a toy student whose best levels are known."""

import pytest
import torch
from torch import nn

from kdvit_mm.selection import AlignedReward, GradNorm, MeasuredReward
from kdvit_mm.selection.gradients import GradientWatch
from kdvit_mm.selection.recorder import Pyramid

GOOD, NEUTRAL, BAD = 0, 1, 2
BATCH, CHANNELS, SIZE = 2, 4, 6


class Toy(nn.Module):
    """Three maps that the task pulls to targets of its own.

    The teacher's map is the target on the first level, unrelated on the
    second and opposite on the third: distilling these helps, does nothing
    and harms.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (3, BATCH, CHANNELS, SIZE, SIZE)
        target = torch.randn(shape, generator=generator)
        other = torch.randn(shape, generator=generator)
        # Exactly unrelated, image by image.
        share = (target * other).flatten(2).sum(2) / target.square().flatten(
            2
        ).sum(2)
        other = other - share[..., None, None, None] * target
        self.target = target
        self.teacher = torch.stack([target[0], other[1], -target[2]])
        self.maps = nn.Parameter(torch.zeros(shape))

    def pyramid(self) -> Pyramid:
        maps = Pyramid(x.view_as(x) for x in self.maps)
        maps.used = [x.view_as(x) for x in self.maps]
        return maps

    def task(self, maps) -> torch.Tensor:
        """Loss of each image."""
        error = torch.stack([*maps]) - self.target
        return error.square().flatten(2).sum(2).sum(0)

    def distill(self, maps) -> torch.Tensor:
        """Loss of each level and image."""
        error = torch.stack([*maps]) - self.teacher
        return error.square().flatten(2).sum(2)


def gradients(toy: Toy, applied: torch.Tensor, scale: float = 1.0):
    watch = GradientWatch(3)
    maps = toy.pyramid()
    watch.watch(maps, applied)
    weights = applied.T.float()
    total = toy.task(maps.used).sum() + (toy.distill(maps) * weights).sum()
    (scale * total).backward()
    return watch.take()


def aligned(toy: Toy, applied: torch.Tensor, scale: float = 1.0):
    reward = AlignedReward(3)
    reward.before_step(None)
    return reward.after_step(applied, gradients(toy, applied, scale))


def test_gradients_are_noticed_where_they_are():
    applied = torch.tensor([[True, False, False], [False, False, True]])
    toy = Toy()
    found = gradients(toy, applied)
    task = (2 * toy.target).square().flatten(2).sum(2).T
    distill = (2 * toy.teacher).square().flatten(2).sum(2).T
    torch.testing.assert_close(found.task, task)
    torch.testing.assert_close(
        found.distill, distill.where(applied, torch.nan), equal_nan=True
    )
    torch.testing.assert_close(
        found.distill_norms,
        torch.stack([distill[0, 0], distill[0, 0] * torch.nan, distill[1, 2]])
        .sqrt(),
        equal_nan=True,
    )  # fmt: skip
    watch = GradientWatch(3)
    watch.watch(toy.pyramid(), applied)
    assert watch.take() is None


def test_aligned_ranks_the_levels_and_gives_their_exact_cosines():
    everything = torch.ones(BATCH, 3, dtype=torch.bool)
    quality = aligned(Toy(), everything)
    toy = Toy()
    g = toy.target.transpose(0, 1).flatten(1)
    d = toy.teacher.transpose(0, 1).flatten(1)
    parts = (toy.target * toy.teacher).flatten(2).sum(2).T
    expected = parts / (g.norm(dim=1) * d.norm(dim=1))[:, None]
    torch.testing.assert_close(quality, expected, atol=1e-6, rtol=1e-4)
    assert (quality[:, GOOD] > 0.1).all()
    assert (quality[:, NEUTRAL].abs() < 1e-5).all()
    assert (quality[:, BAD] < -0.1).all()


def test_a_loss_scale_cancels_and_unchosen_pairs_are_unknown():
    applied = torch.tensor([[True, False, True], [False, True, False]])
    plain, scaled = (aligned(Toy(), applied, s) for s in (1.0, 1024.0))
    torch.testing.assert_close(plain, scaled, equal_nan=True)
    assert torch.equal(plain.isnan(), ~applied)


def one_step(toy: Toy, level: int) -> torch.Tensor:
    """Measured quality of choosing one level for both images."""
    reward = MeasuredReward(3)
    applied = torch.zeros(BATCH, 3, dtype=torch.bool)
    applied[:, level] = True

    def losses() -> torch.Tensor:
        with torch.no_grad():
            return toy.task(toy.maps) + toy.distill(toy.maps).sum(0)

    reward.before_step(losses)
    (toy.task(toy.maps).sum() + toy.distill(toy.maps)[level].sum()).backward()
    with torch.no_grad():
        toy.maps -= 0.1 * toy.maps.grad
    return reward.after_step(applied, None, losses)


def test_measured_ranks_the_levels():
    found = torch.stack([one_step(Toy(), i)[:, i] for i in range(3)], 1)
    assert (found[:, GOOD] > found[:, NEUTRAL]).all()
    assert (found[:, GOOD] > found[:, BAD]).all()
    assert (found[:, GOOD] > 0).all()


def test_measured_is_shared_out_among_the_chosen_and_unknown_elsewhere():
    reward = MeasuredReward(3)
    applied = torch.tensor([[True, False, True], [False, True, False]])
    reward.before_step(lambda: torch.tensor([4.0, 10.0]))
    found = reward.after_step(applied, None, lambda: torch.tensor([3.0, 11.0]))
    assert found[0].tolist() == pytest.approx(
        [0.125, float('nan'), 0.125], nan_ok=True
    )
    assert found[1, 1] == pytest.approx(-0.1)
    # Without a measurement around the step nothing is known.
    reward.before_step(None)
    assert reward.after_step(applied, None, None) is None


def test_quality_wants_gradients_and_a_pyramid_recorded_apart():
    watch = GradientWatch(3)
    applied = torch.ones(BATCH, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match='FPNLevelSelection'):
        watch.watch(tuple(Toy().maps), applied)
    toy = Toy().requires_grad_(False)
    with pytest.raises(ValueError, match=r'level 0 .* no gradient'):
        watch.watch(toy.pyramid(), applied)


@pytest.mark.parametrize('alpha', [0.0, 1.0])
def test_grad_norm_brings_the_weighted_norms_to_their_targets(alpha):
    scales = torch.tensor([1.0, 10.0, 0.1, 3.0])
    losses = torch.tensor([1.0, 0.5, 2.0, 1.0])
    balance = GradNorm(4, alpha=alpha, lr=0.1)
    balance.step(scales * balance.weights, torch.ones(4))
    for _ in range(300):
        balance.step(scales * balance.weights, losses)
    norms = scales * balance.weights
    target = (losses / losses.mean()) ** alpha
    ratio = norms / norms.mean() / (target / target.mean())
    torch.testing.assert_close(ratio, torch.ones(4), rtol=0.02, atol=0)
    assert float(balance.weights.sum()) == pytest.approx(4, rel=1e-5)


def test_grad_norm_leaves_levels_without_a_loss_alone():
    nan = float('nan')
    balance = GradNorm(3, lr=0.5)
    balance.step(torch.tensor([1.0, 2.0, nan]), torch.tensor([1.0, 1.0, nan]))
    assert balance.weights[2] == 1
    assert balance.weights[0] > 1 > balance.weights[1]
    assert float(balance.weights.sum()) == pytest.approx(3, rel=1e-5)
    before = balance.weights.clone()
    balance.step(torch.full((3,), nan), torch.full((3,), nan))
    assert torch.equal(before, balance.weights)
    with pytest.raises(ValueError, match='alpha=-1'):
        GradNorm(3, alpha=-1)
