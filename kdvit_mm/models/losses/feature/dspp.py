"""Decoupled spatial pyramid pooling."""

from typing import Any

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.unit import unit_vectors
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DSPPLoss(DistillLoss):
    r"""Compares averages over regions, the teacher's largest apart.

    Level l of L averages a map over :math:`l \times l` regions. All averages
    of an image, over all levels and channels, are one vector v of length 1,
    of n entries. With K the :math:`\lfloor n / topk \rfloor` largest entries
    of the teacher's,

    .. math:: L = \frac{1}{N} \sum \big(w_{max} \|(v_S - v_T)_K\|_2
        + w_{min} \|(v_S - v_T)_{\bar K}\|_2\big),

    distances that are not squared. Of several maps only the last is
    decoupled, the others add :math:`\|v_S - v_T\|_2`.

    Gao and Gao, *Feature Decoupled Knowledge Distillation via Spatial Pyramid
    Pooling*, ACCV 2022. Official code: https://github.com/luilui97/DSPP. It
    pads a map where it cannot be divided evenly, and stops on small ones, as
    of 5 × 5 with four levels, where the padding would exceed half a region;
    here it is half a region at most, so that such a level has fewer regions.
    At distance 0 the gradient is 0, as there. Of equal entries around the
    K-th the official code may weigh one twice and another not at all.

    The student's map is the output of a regressor of the teacher's shape::

        dict(type='ConvModuleConnector', in_channel=64, out_channel=256,
             bias=True, norm_cfg=dict(type='BN'))

    Args:
        max_weight (float): Weight of the K largest entries; 1 in the
            README's command. Defaults to 0.9.
        min_weight (float): Weight of the others; 10 in the README's command.
            Defaults to 2.5.
        num_levels (int): Levels L; 3 in the README's command. Defaults to 4.
        topk (int): Divisor that gives K; 100 in the README's command.
            Defaults to 5.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``num_levels`` or ``topk`` is below 1.
    """

    takes_dims = (4,)
    takes_pyramid = True

    def __init__(
        self,
        max_weight: float = 0.9,
        min_weight: float = 2.5,
        num_levels: int = 4,
        topk: int = 5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if num_levels < 1 or topk < 1:
            raise ValueError(
                'DSPPLoss: num_levels and topk are at least 1, got '
                f'num_levels={num_levels} and topk={topk}.'
            )
        self.max_weight = max_weight
        self.min_weight = min_weight
        self.num_levels = num_levels
        self.topk = topk

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Any,
    ) -> list[torch.Tensor]:
        """Computes all maps, of shape (N, C, H, W), the last decoupled."""
        last = len(students) - 1
        return [
            self._map_loss(student, teacher, index == last)
            for index, (student, teacher) in enumerate(
                zip(students, teachers, strict=True)
            )
        ]

    def _map_loss(
        self, student: torch.Tensor, teacher: torch.Tensor, decoupled: bool
    ) -> torch.Tensor:
        ours, theirs = (
            unit_vectors(region_averages(maps, self.num_levels))
            for maps in (student, teacher)
        )
        squares = (ours - theirs).square()
        if not decoupled:
            return _mean_length(squares)
        largest = theirs.topk(theirs.size(1) // self.topk).indices
        return self.max_weight * _mean_length(
            squares.gather(1, largest)
        ) + self.min_weight * _mean_length(squares.scatter(1, largest, 0))


def region_averages(maps: torch.Tensor, num_levels: int) -> torch.Tensor:
    """Averages maps over the regions of all levels.

    Args:
        maps (torch.Tensor): Maps of shape (N, C, H, W).
        num_levels (int): Number of levels; level l has l × l regions.

    Returns:
        torch.Tensor: The averages of shape (N, n), levels one after another,
        a level sorted by channel.
    """
    averages = []
    for level in range(1, num_levels + 1):
        kernel = [-(-size // level) for size in maps.shape[2:]]
        padding = [
            min((k * level - size + 1) // 2, k // 2)
            for k, size in zip(kernel, maps.shape[2:], strict=True)
        ]
        # A stride is the kernel's size; the padding counts in the mean.
        level_averages = F.avg_pool2d(maps, kernel, padding=padding)
        averages.append(level_averages.flatten(1))
    return torch.cat(averages, 1)


def _mean_length(squares: torch.Tensor) -> torch.Tensor:
    """Mean over vectors of the root of their sum; no gradient at 0."""
    tiny = torch.finfo(squares.dtype).tiny
    return squares.sum(1).clamp_min(tiny).sqrt().mean()
