"""Flow of solution procedure."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class FSPLoss(DistillLoss):
    r"""Matches the relations between consecutive layers.

    For each two neighbouring maps the flow matrix of an image is

    .. math:: G_{cd} = \frac{1}{H W} \sum_{h,w} F^i_{chw} F^{i+1}_{dhw},

    and :math:`L = \sum_i \overline{(G^i_S - G^i_T)^2}`, a mean over images
    and entries. Where the two maps differ in height or width, both are
    averaged to the smaller ones. Student and teacher may differ in height
    and width, but not in channels.

    Yim, Joo, Bae and Kim, *A Gift from Knowledge Distillation: Fast
    Optimization, Network Minimization and Transfer Learning*, CVPR 2017. The
    authors have released no code; values are those of
    https://github.com/HobbitLong/RepDistiller, whose averages are for square
    maps. In both it is a stage before the training, which initialises the
    student, with weight 1 over 30 epochs in RepDistiller's.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    takes_dims = (4,)
    takes_pyramid = True
    equal_dims = 2

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Any,
    ) -> list[torch.Tensor]:
        """Computes all pairs of neighbouring maps, a scalar per pair.

        Args:
            students (list[torch.Tensor]): The student's maps of shape
                (N, C, H, W), two or more.
            teachers (list[torch.Tensor]): The teacher's.
            data_samples (Any): Not read.

        Returns:
            list[torch.Tensor]: One loss less than maps.

        Raises:
            ValueError: If there is one map alone.
        """
        if len(students) < 2:
            raise ValueError(
                'FSPLoss compares neighbouring maps and got one alone, of '
                f'shape {describe(students[0])}. Record two or more of both: '
                "a backbone with several out_indices, or type='kdvit_mm."
                "ModuleTuple', and no data_idx in loss_forward_mappings."
            )
        return [
            F.mse_loss(_flow(*student), _flow(*teacher))
            for student, teacher in zip(
                pairwise(students), pairwise(teachers), strict=True
            )
        ]


def _flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The matrices of two maps, of shape (N, C of first, C of second)."""
    height = min(first.size(2), second.size(2))
    width = min(first.size(3), second.size(3))
    first, second = (
        maps
        if maps.shape[2:] == (height, width)
        else F.adaptive_avg_pool2d(maps, (height, width))
        for maps in (first, second)
    )
    return first.flatten(2) @ second.flatten(2).mT / (height * width)
