import math

import pytest
import torch
import torch.nn.functional as F

from kdvit_mm.selection import State
from kdvit_mm.selection.selectors.state import (
    NUM_STATISTICS,
    RunningMoments,
    StateEncoder,
    level_statistics,
)

COSTS = torch.ones(1)


def slow_side(features, step):
    attention = features[::step].abs().mean(0)
    mean = attention.mean()
    return [
        math.log(mean),
        features.mean() / mean,
        attention.std(unbiased=False) / mean,
        math.log(attention.max() / mean),
        (attention > 1.5 * mean).float().mean(),
    ]


def slow_statistics(student, teacher):
    """One image's numbers at one level, from maps (C, H, W)."""
    step_S = max(1, len(student) // 64)
    step_T = max(1, len(teacher) // 64)
    attention_S = student[::step_S].abs().mean(0)
    attention_T = teacher[::step_T].abs().mean(0)
    if student.shape == teacher.shape:
        difference = (student - teacher)[::step_S].abs().mean(0)
        relative = difference.mean() / attention_T.mean()
    else:
        attention_T = F.interpolate(
            attention_T[None, None], attention_S.shape, mode='bilinear'
        )[0, 0]
        difference = (
            attention_S / attention_S.mean() - attention_T / attention_T.mean()
        ).abs()
        relative = difference.mean()
    both = torch.stack([attention_S.flatten(), attention_T.flatten()])
    return torch.tensor(
        [
            *slow_side(student, step_S),
            *slow_side(teacher, step_T),
            math.log(relative),
            difference.std(unbiased=False) / difference.mean(),
            torch.corrcoef(both)[0, 1],
        ]
    )


@pytest.mark.parametrize(
    'teacher_shape',
    [(5, 7, 9), (8, 7, 9), (5, 14, 18), (200, 7, 9)],
    ids=['equal', 'channels', 'sizes', 'many-channels'],
)
def test_statistics_are_those_of_a_plain_computation(teacher_shape):
    torch.manual_seed(0)
    student = [torch.randn(3, 5, 7, 9) for _ in range(2)]
    teacher = [torch.randn(3, *teacher_shape) for _ in range(2)]
    got = level_statistics(student, teacher)
    assert got.shape == (3, 2, NUM_STATISTICS)
    for n in range(3):
        for level in range(2):
            expected = slow_statistics(student[level][n], teacher[level][n])
            torch.testing.assert_close(
                got[n, level], expected, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_memory_format_change_little(dtype):
    torch.manual_seed(0)
    student = [torch.randn(2, 128, 8, 8, requires_grad=True)]
    teacher = [torch.randn(2, 128, 8, 8)]
    expected = level_statistics(student, teacher)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(
            level_statistics(student, teacher), expected, rtol=0, atol=0
        )
    half = level_statistics(
        [student[0].to(dtype)],
        [teacher[0].to(dtype, memory_format=torch.channels_last)],
    )
    assert half.dtype == torch.float32
    assert not half.requires_grad
    # The share of bright positions moves in steps of 1 / 64.
    torch.testing.assert_close(half, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize('size', [(1, 1), (1, 3), (5, 2)])
@pytest.mark.parametrize('value', [0.0, 1.0])
def test_small_and_constant_maps_have_finite_statistics(size, value):
    maps = [torch.full((2, 3, *size), value)]
    assert level_statistics(maps, maps).isfinite().all()


@pytest.mark.parametrize('bad', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('side', [0, 1])
def test_bad_image_is_told_apart_and_leaves_the_others_alone(bad, side):
    torch.manual_seed(0)
    pyramids = [[torch.randn(3, 256, 4, 4) for _ in range(2)] for _ in 'ST']
    encoder = StateEncoder(2)
    losses = torch.tensor([1.0, 3.0])
    expected, _ = encoder(State(*pyramids, COSTS), losses)
    # In a channel that the statistics skip.
    pyramids[side][1][1, 3, 2, 2] = bad
    raw, finite = encoder(State(*pyramids, COSTS), losses)
    assert finite.tolist() == [True, False, True]
    assert raw.isfinite().all()
    assert torch.equal(raw[[0, 2]], expected[[0, 2]])
    assert encoder.normalise(raw).isfinite().all()


def test_state_holds_losses_relative_to_their_mean():
    maps = [torch.randn(2, 3, 4, 4) for _ in range(3)]
    encoder = StateEncoder(3)
    raw, _ = encoder(
        State(maps, maps, COSTS), torch.tensor([2.0, 6.0, torch.nan])
    )
    assert raw.shape == (2, encoder.size)
    torch.testing.assert_close(
        raw[:, -3:], torch.tensor([[0.5, 1.5, 0.0]]).expand(2, 3)
    )
    raw, _ = encoder(State(maps, maps, COSTS), torch.full((3,), torch.nan))
    assert (raw[:, -3:] == 0).all()


def test_running_moments_are_those_of_all_samples_within_the_horizon():
    torch.manual_seed(0)
    samples = 3 + 2 * torch.randn(90, 4)
    moments = RunningMoments(4)
    for part in samples.split([1, 30, 0, 59]):
        moments.update(part)
    assert moments.count == 90
    torch.testing.assert_close(moments.mean, samples.mean(0))
    torch.testing.assert_close(
        moments.deviation, samples.std(0, unbiased=False)
    )


def test_running_moments_forget_what_is_older_than_the_horizon():
    moments = RunningMoments(1, horizon=100)
    for _ in range(50):
        moments.update(torch.full((100, 1), -5.0))
    for _ in range(40):
        moments.update(torch.tensor([[1.0], [3.0]]).repeat(50, 1))
    torch.testing.assert_close(moments.mean, torch.tensor([2.0]))
    torch.testing.assert_close(moments.deviation, torch.tensor([1.0]))


def test_deviation_is_one_where_nothing_varies():
    moments = RunningMoments(2)
    assert moments.deviation.tolist() == [1, 1]
    moments.update(torch.tensor([[1.0, 2.0], [1.0, 4.0]]))
    assert moments.deviation.tolist() == [1, 1]
    moments.update(torch.tensor([[1.0, 8.0]]))
    assert moments.deviation[0] == 1
    assert moments.deviation[1] > 2


def test_normalised_states_have_mean_0_and_deviation_1():
    torch.manual_seed(0)
    encoder = StateEncoder(2)
    maps = [torch.randn(400, 5, size, size) for size in (6, 4)]
    teacher = [m + torch.randn_like(m) for m in maps]
    raw, _ = encoder(State(maps, teacher, COSTS), torch.tensor([1.0, 1.0]))
    encoder.update(raw)
    normal = encoder.normalise(raw)[:, : 2 * NUM_STATISTICS]
    torch.testing.assert_close(
        normal.mean(0), torch.zeros(2 * NUM_STATISTICS), rtol=0, atol=1e-3
    )
    deviation = normal.std(0, unbiased=False)
    assert ((deviation - 1).abs() < 0.05).all()
