"""Hierarchical context loss of ReviewKD."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class HCLLoss(DistillLoss):
    r"""Squared error of maps and of their averages over ever larger regions.

    With d the difference of two maps and :math:`A_k` the adaptive average
    over k × k regions, a level adds the mean of

    .. math:: d^2, A_4(d)^2, A_2(d)^2, A_1(d)^2

    weighted by 1, 1/2, 1/4, 1/8. A k that is not below the height of the map
    is left out, and its weight goes to the next one. Goes with
    :class:`ReviewKDConnector` on the student's side.

    Chen et al., *Distilling Knowledge via Knowledge Review*, CVPR 2021,
    arXiv:2104.09044. Official code:
    https://github.com/dvlab-research/ReviewKD (``hcl`` in
    ``Detection/model/kd_trans.py``).

    Args:
        loss_weight (float): Weight of the loss. The paper's: 1.0 for Faster
            R-CNN and RetinaNet R101 → R50, 1.2 for R101 → R18, 2.0 for
            R50 → MobileNetV2; on ImageNet 1.0 for R34 → R18 and 8.0 for
            R50 → MobileNetV1; on CIFAR-100, after the warm-up that
            :class:`ReviewKDConnector` shows, 5.0, but 8.0 for R32x4 →
            ShuffleNetV2, 0.6 for R56 → R20 and 1.0 for R110 → R32. Defaults
            to 1.0.
    """

    takes_dims = (4,)

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from maps of shape (N, C, H, W)."""
        loss = F.mse_loss(student, teacher)
        # The official code compares the height alone.
        numbers = [k for k in (4, 2, 1) if k < student.size(2)]
        if not numbers:
            return loss
        # Averages over the columns of all regions are one product with each
        # map; those over the rows are of its small result.
        columns = torch.cat([_average(student, 3, k) for k in numbers], 1)
        strips = (student @ columns - teacher @ columns).split(numbers, 3)
        weight = total = 1.0
        for number, strip in zip(numbers, strips, strict=True):
            weight /= 2
            total += weight
            regions = strip.mT @ _average(student, 2, number)
            loss = loss + weight * regions.square().mean()
        return loss / total

    def suggest_fix(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        """Says what makes the two shapes equal."""
        return (
            "Map all levels of the student by one connector, dict(type='"
            "ReviewKDConnector', in_channels=[...], out_channels=[...], "
            'mid_channels=...), here in_channels '
            f'{student.size(1)} and out_channels {teacher.size(1)}, with '
            'out_sizes where heights and widths differ.'
        )


def _average(like: torch.Tensor, dim: int, number: int) -> torch.Tensor:
    """Adaptive average over ``dim`` as a matrix, of shape (size, number)."""
    size = like.size(dim)
    one = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.adaptive_avg_pool1d(one, number)
