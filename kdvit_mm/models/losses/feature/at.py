"""Attention transfer."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.unit import unit_vectors
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class ATLoss(DistillLoss):
    r"""Matches the spatial attention of student and teacher.

    With :math:`q = Q / \|Q\|_2` and Q the vector over all positions of
    :math:`\frac{1}{C} \sum_c |F_c|^p`,

    .. math:: L = \frac{1}{N H W} \sum_n \|q_S - q_T\|_2^2

    per level, summed over levels. Channels may differ. Where heights or
    widths do, both maps are averaged to the smaller ones before the power.

    Zagoruyko and Komodakis, *Paying More Attention to Attention: Improving
    the Performance of Convolutional Neural Networks via Attention Transfer*,
    ICLR 2017, arXiv:1612.03928. Official code:
    https://github.com/szagoruyko/attention-transfer, for p = 2 and equal
    sizes. Others are from https://github.com/megvii-research/mdistiller,
    which averages the higher map to a square, and takes the power of F
    itself, so that an odd p keeps signs. A map that is 0 everywhere has no
    gradient here.

    mmrazor has a class of the same name: write ``type='kdvit_mm.ATLoss'``.
    mdistiller's weight, of the sum over all stages but the stem, is 1000.

    Args:
        p (float): Exponent, at least 1. Defaults to 2.
        released (bool): Whether sizes and odd exponents are treated as in
            mdistiller. Defaults to False.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``p`` is below 1, or no whole number with
            ``released=True``.
    """

    takes_dims = (4,)
    equal_dims = 1

    def __init__(
        self, p: float = 2, released: bool = False, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        if not p >= 1:
            raise ValueError(f'ATLoss: p is at least 1, got {p}.')
        if released and p % 1:
            raise ValueError(
                f'ATLoss: p={p} of a negative value is NaN as released. Set '
                'p to a whole number or released=False.'
            )
        self.p = p
        self.released = released

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from maps of shape (N, C, H, W)."""
        height = min(student.size(2), teacher.size(2))
        width = min(student.size(3), teacher.size(3))
        if not self.released:
            student = _averaged(student, height, width)
            teacher = _averaged(teacher, height, width)
        elif student.size(2) > height:
            student = _averaged(student, height, height)
        elif teacher.size(2) > height:
            teacher = _averaged(teacher, height, height)
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                'ATLoss: released=True makes the higher of two maps a '
                f'square, {describe(student)} and {describe(teacher)}, which '
                'does not fit the other. Set released=False.'
            )
        return F.mse_loss(self._attention(student), self._attention(teacher))

    def _attention(self, maps: torch.Tensor) -> torch.Tensor:
        if self.p % 2 and not self.released:
            maps = maps.abs()
        return unit_vectors(maps.pow(self.p).mean(1).flatten(1))


def _averaged(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if maps.shape[2:] == (height, width):
        return maps
    return F.adaptive_avg_pool2d(maps, (height, width))
