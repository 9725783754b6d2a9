"""Rewards on a toy student whose best levels are known."""

import pytest
import torch
from torch import nn

from kdvit_mm.models.recorders.fpn_level_selection import Pyramid
from kdvit_mm.models.selectors import (
    AlignedQuality,
    GradNorm,
    InfluenceQuality,
    MeasuredQuality,
)

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


def aligned(toy: Toy, applied: torch.Tensor, scale: float = 1.0):
    quality = AlignedQuality(3)
    maps = toy.pyramid()
    quality.watch(maps, applied)
    weights = applied.T.float()
    total = toy.task(maps.used).sum() + (toy.distill(maps) * weights).sum()
    (scale * total).backward()
    return quality.take(applied)


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


def test_summed_loss_before_and_after_choosing_would_rank_wrongly():
    """Why the reward is not the distill loss over the chosen levels."""
    toy = Toy()
    losses = toy.distill(toy.maps)[:, 0]

    def naive(levels: list[int]) -> float:
        return -float(losses[levels].sum())  # before: nothing is chosen

    # It asks for as few levels as possible, the best one or not.
    assert naive([]) > naive([GOOD]) > naive([GOOD, BAD])
    assert naive([NEUTRAL]) > naive([NEUTRAL, GOOD])


def one_step(toy: Toy, level: int) -> torch.Tensor:
    """Measured quality of choosing one level for both images."""
    quality = MeasuredQuality(3)
    applied = torch.zeros(BATCH, 3, dtype=torch.bool)
    applied[:, level] = True
    maps = toy.pyramid()
    quality.watch(maps, applied)

    def losses() -> torch.Tensor:
        with torch.no_grad():
            return toy.task(toy.maps) + toy.distill(toy.maps).sum(0)

    quality.see_losses(losses())
    (toy.task(maps.used).sum() + toy.distill(maps)[level].sum()).backward()
    with torch.no_grad():
        toy.maps -= 0.1 * toy.maps.grad
    quality.see_losses(losses())
    return quality.take(applied)


def test_measured_ranks_the_levels():
    found = torch.stack([one_step(Toy(), i)[:, i] for i in range(3)], 1)
    assert (found[:, GOOD] > found[:, NEUTRAL]).all()
    assert (found[:, GOOD] > found[:, BAD]).all()
    assert (found[:, GOOD] > 0).all()


def test_measured_is_shared_out_among_the_chosen_and_unknown_elsewhere():
    toy, quality = Toy(), MeasuredQuality(3)
    applied = torch.tensor([[True, False, True], [False, True, False]])
    quality.see_losses(torch.tensor([4.0, 10.0]))
    quality.see_losses(torch.tensor([3.0, 11.0]))
    maps = toy.pyramid()
    quality.watch(maps, applied)
    found = quality.take(applied)
    assert found[0].tolist() == pytest.approx(
        [0.125, float('nan'), 0.125], nan_ok=True
    )
    assert found[1, 1] == pytest.approx(-0.1)
    # Without a measurement around the step nothing is known.
    assert quality.take(applied) is None


class ConvToy(nn.Module):
    """Three levels, each behind a convolution that is trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3)
        )
        self.inputs = torch.randn(3, BATCH, CHANNELS, SIZE, SIZE)
        self.held_out = torch.randn(3, BATCH, CHANNELS, SIZE, SIZE)
        self.true = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3)
        )

    def forward(self, inputs):
        maps = [f(x) for f, x in zip(self.convs, inputs, strict=True)]
        pyramid = Pyramid(x.view_as(x) for x in maps)
        pyramid.used = [x.view_as(x) for x in maps]
        return pyramid

    def task(self, maps, inputs) -> torch.Tensor:
        return sum(
            (y - f(x).detach()).square().sum()
            for y, f, x in zip(maps, self.true, inputs, strict=True)
        )


def test_influence_ranks_levels_by_images_that_are_not_trained_on():
    toy = ConvToy()
    names = [f'convs.{level}' for level in range(3)]
    quality = InfluenceQuality(3, convs=names)
    quality.attach(toy)
    quality.see_held_out(toy.task(toy(toy.held_out).used, toy.held_out))
    pyramid = toy(toy.inputs)
    applied = torch.ones(BATCH, 3, dtype=torch.bool)
    quality.watch(pyramid, applied)
    teacher = [
        f(x).detach() for f, x in zip(toy.true, toy.inputs, strict=True)
    ]
    now = [x.detach() for x in pyramid]
    teachers = [teacher[0], now[1], 2 * now[2] - teacher[2]]
    distill = sum(
        (y - t).square().sum() for y, t in zip(pyramid, teachers, strict=True)
    )
    # The images' own task pulls the other way and must not matter.
    task = -toy.task(pyramid.used, toy.inputs)
    gradients = quality.gradients
    weights = [conv.weight for conv in toy.convs]
    at_weight = torch.autograd.grad(distill, weights, retain_graph=True)
    (distill + task).backward()
    found = quality.take(applied)
    assert (found[:, GOOD] > 0.01).all()
    assert torch.equal(found[:, NEUTRAL], torch.zeros(BATCH))
    assert (found[:, BAD] < -0.01).all()
    # Undone the normalisation, images add up to the product at the weight.
    norm = sum(g.square().sum() for g in gradients).sqrt()
    x = toy.inputs.square().flatten(2).sum(2).sqrt()
    d = torch.stack([y - t for y, t in zip(now, teachers, strict=True)])
    d = (2 * d).square().flatten(2).sum(2).sum(0).sqrt()
    for level in range(3):
        product = (found[:, level] * norm * x[level] * d).sum()
        expected = (gradients[level] * at_weight[level]).sum()
        torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-2)


def test_influence_names_a_wrong_convolution():
    quality = InfluenceQuality(2, convs=['convs.0', 'conv.1'])
    with pytest.raises(ValueError, match=r'"conv\.1", which is not a'):
        quality.attach(ConvToy())
    with pytest.raises(ValueError, match='convs has 1 names'):
        InfluenceQuality(2, convs=['convs.0'])


def test_quality_wants_gradients_and_a_pyramid_recorded_apart():
    quality = AlignedQuality(3)
    applied = torch.ones(BATCH, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match='FPNLevelSelection'):
        quality.watch(tuple(Toy().maps), applied)
    toy = Toy().requires_grad_(False)
    with pytest.raises(ValueError, match=r'level 0 .* no gradient'):
        quality.watch(toy.pyramid(), applied)


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
