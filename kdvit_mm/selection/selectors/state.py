"""What a selector sees of an image: cheap numbers without ground truth."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.selection.plan import State

#: Numbers that describe a level of an image.
NUM_STATISTICS = 13

#: Channels that a map is looked at in; all of them are checked for NaN.
CHANNELS = 64

TINY = 1e-6


@torch.no_grad()
def level_statistics(
    preds_S: Sequence[torch.Tensor], preds_T: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Describes each level of each image by a few numbers.

    With a the mean of the absolute values over the channels, a map over the
    positions, the numbers are, of the student and then of the teacher: the
    logarithm of a's mean; the mean of the features relative to it; a's
    deviation and the logarithm of its maximum, both relative to its mean; the
    share of positions where a is above 1.5 times its mean. Of both: the
    logarithm of their mean absolute difference relative to the teacher's mean
    a; the difference's deviation over the positions relative to its mean; the
    correlation of the two a. The difference is that of the features where
    shapes agree, else that of each a divided by its mean.

    Each map is read once, and every few channels, 64 to 127 of them, twice
    more.

    Args:
        preds_S (Sequence[torch.Tensor]): The student's pyramid, a map of
            shape (N, C, H, W) per level.
        preds_T (Sequence[torch.Tensor]): The teacher's, of any channels and
            sizes.

    Returns:
        torch.Tensor: The numbers with shape (N, L, 13) in float32. Those of
        an image and level with a NaN or an infinity are not all finite.
    """
    with torch.autocast(preds_S[0].device.type, enabled=False):
        levels = [
            _describe_level(student, teacher)
            for student, teacher in zip(preds_S, preds_T, strict=True)
        ]
        return torch.stack(levels, 1)


def _describe_level(
    student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    """Numbers of one level, of shape (N, 13)."""
    some_S, some_T = _some_channels(student), _some_channels(teacher)
    maps_S, maps_T = some_S.abs().mean(1), some_T.abs().mean(1)
    sides = [
        *_describe_side(student, maps_S),
        *_describe_side(teacher, maps_T),
    ]
    scale = maps_T.mean((1, 2))
    if maps_S.shape != maps_T.shape:
        maps_T = F.interpolate(
            maps_T[:, None], maps_S.shape[1:], mode='bilinear'
        )[:, 0]
    if student.shape == teacher.shape:
        difference = (some_S - some_T).abs_().mean(1)
    else:
        difference = (_over_mean(maps_S) - _over_mean(maps_T)).abs()
        scale = torch.ones_like(scale)
    flat_S, flat_T = maps_S.flatten(1), maps_T.flatten(1)
    both = [
        (difference.mean((1, 2)) / (scale + TINY) + TINY).log(),
        _over_mean(difference).std((1, 2), unbiased=False),
        F.cosine_similarity(
            flat_S - flat_S.mean(1, keepdim=True),
            flat_T - flat_T.mean(1, keepdim=True),
        ),
    ]
    return torch.stack(sides + both, 1)


def _describe_side(
    features: torch.Tensor, maps: torch.Tensor
) -> list[torch.Tensor]:
    scale = maps.mean((1, 2)) + TINY
    relative = _over_mean(maps)
    return [
        scale.log(),
        features.mean((1, 2, 3), dtype=torch.float32) / scale,
        relative.std((1, 2), unbiased=False),
        (relative.amax((1, 2)) + TINY).log(),
        (relative > 1.5).float().mean((1, 2)),
    ]


def _some_channels(features: torch.Tensor) -> torch.Tensor:
    return features[:, :: max(1, features.size(1) // CHANNELS)].float()


def _over_mean(maps: torch.Tensor) -> torch.Tensor:
    return maps / (maps.mean((1, 2), keepdim=True) + TINY)


class RunningMoments(nn.Module):
    """Mean and variance, in which samples count less the older they are.

    Args:
        size (int): Numbers of a sample.
        horizon (int): Samples that count in full; before as many were seen,
            all of them do. Defaults to 10000.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor

    def __init__(self, size: int, horizon: int = 10_000) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('variance', torch.zeros(size))
        self.register_buffer('count', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, samples: torch.Tensor) -> None:
        """Takes samples of shape (n, size) in; there may be none."""
        if not len(samples):
            return
        before = self.count.clamp(max=self.horizon)
        total = before + len(samples)
        share = len(samples) / total
        distance = samples.mean(0) - self.mean
        variance = samples.var(0, unbiased=False)
        self.variance.lerp_(variance, share)
        self.variance += share * (1 - share) * distance.square()
        self.mean += share * distance
        self.count.copy_(total)

    @property
    def deviation(self) -> torch.Tensor:
        """Standard deviations, of shape (size,); 1 where there is none."""
        known = self.variance > 0
        return torch.where(known, self.variance, 1.0).sqrt()


class StateEncoder(nn.Module):
    """Turns the state of a batch into the input of a policy's network.

    Args:
        num_levels (int): Number of pyramid levels, L.
    """

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.moments = RunningMoments(num_levels * NUM_STATISTICS)
        #: Numbers of an image, D.
        self.size = num_levels * (NUM_STATISTICS + 1)

    def forward(
        self, state: State, running_losses: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Describes each image.

        Args:
            state (State): What is known of the batch.
            running_losses (torch.Tensor): Running mean of each level's
                distill loss, of shape (L,), NaN where there is none.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The raw state with shape
            (N, D), :func:`level_statistics` and the losses relative to their
            mean; and whether the image's maps are all finite, booleans of
            shape (N,). Images whose maps are not have the mean of the others
            for a state.
        """
        statistics = level_statistics(state.student, state.teacher).flatten(1)
        finite = statistics.isfinite().all(1)
        statistics = torch.where(
            finite[:, None], statistics, self.moments.mean
        )
        losses = running_losses / (running_losses.abs().nanmean() + TINY)
        losses = losses.nan_to_num(0.0).expand(len(statistics), -1)
        return torch.cat([statistics, losses], 1), finite

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        """Brings raw states of shape (n, D) to mean 0 and deviation 1."""
        number = len(self.moments.mean)
        statistics, others = raw[:, :number], raw[:, number:]
        # A number that hardly varies tells nothing and would be amplified.
        deviation = self.moments.deviation.clamp(min=1e-3)
        statistics = (statistics - self.moments.mean) / deviation
        return torch.cat([statistics, others], 1).clamp(-10, 10)

    def update(self, raw: torch.Tensor) -> None:
        """Takes raw states of shape (n, D) into mean and deviation."""
        self.moments.update(raw[:, : len(self.moments.mean)])
