"""Class attention transfer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.models.losses.response.logit_loss import LogitLoss
from kdvit_mm.models.utils.class_maps import class_map
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class CATKDLoss(LogitLoss):
    r"""Distils the class activation maps.

    With :math:`A` the class maps, which are what the classifier makes of each
    place of the last map before it is averaged,

    .. math:: L = \frac{1}{N C r^2} \sum_{n, c}
        \lVert \phi(A_S) - \phi(A_T) \rVert^2,

    where :math:`\phi` averages a class's map over r × r regions and divides
    it by its norm.

    Guo et al., *Class Attention Transfer Based Knowledge Distillation*,
    CVPR 2023, arXiv:2304.12777. Official code:
    https://github.com/GzyAftermath/CAT-KD. It rewrites networks such that
    they put out class maps; here they are computed from the map and the
    classifier of an ordinary network, which needs global average pooling
    between the two and learns by both. Regions are pooled before they are
    classified, which is the same at less cost. Needs no labels: Mixup and
    CutMix may stay.

    Args:
        size (int): r, the regions of a side. Defaults to 2.
        normalise (bool): Whether each map is divided by its norm. The weights
            of the official CIFAR-100 configs are 0.7 to 15 without it, 15 to
            600 with it. Defaults to True.
        binarise (bool): Whether the teacher's maps are replaced by where they
            are above the mean of their absolute values, as in an experiment
            of the paper. Defaults to False.
        num_maps (int | None): Number of classes of each image whose maps are
            compared: of the teacher's likeliest, or its least likely if
            negative, as in an experiment of the paper, whose code takes one
            less of the former and one more of the latter. Defaults to None,
            all classes.
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    takes_dims = (4,)

    def __init__(
        self,
        size: int = 2,
        normalise: bool = True,
        binarise: bool = False,
        num_maps: int | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.size = size
        self.normalise = normalise
        self.binarise = binarise
        self.num_maps = num_maps

    def forward(  # type: ignore[override]
        self,
        preds_S: Any,
        preds_T: Any,
        fc_S: nn.Linear | None = None,
        fc_T: nn.Linear | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's map before global average
                pooling, shape (N, C, H, W).
            preds_T (torch.Tensor): The teacher's map, whose C, H and W may
                differ.
            fc_S (nn.Linear | None): The student's classifier. Defaults to
                None, which is an error.
            fc_T (nn.Linear | None): The teacher's. Defaults to None, which is
                an error.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 maps.

        Raises:
            ValueError: If a classifier is missing or is not applied to the
                average of the map, or the classes differ.
        """
        name = type(self).__name__
        # Only whole maps can be compared with their mean.
        size_t = None if self.binarise else self.size
        student = class_map(preds_S, fc_S, self.size, name, 'S')
        teacher = class_map(preds_T, fc_T, size_t, name, 'T')
        if self.binarise:
            threshold = teacher.abs().mean((2, 3), keepdim=True)
            teacher = (teacher > threshold).to(teacher.dtype)
            teacher = F.adaptive_avg_pool2d(teacher, self.size)
        chosen = None
        if self.num_maps is not None:
            logits = class_map(preds_T, fc_T, 1, name, 'T').flatten(1)
            chosen = logits.topk(
                abs(self.num_maps), largest=self.num_maps > 0
            ).indices[:, :, None, None]
        return super().forward(student, teacher, chosen)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Compares class maps of shape (N, classes, r, r)."""
        student, teacher = students[0], teachers[0]
        if data_samples is not None:
            student, teacher = (
                x.take_along_dim(data_samples, 1) for x in (student, teacher)
            )
        student, teacher = student.flatten(2), teacher.flatten(2)
        if self.normalise:
            student, teacher = (
                F.normalize(x, dim=2) for x in (student, teacher)
            )
        return [F.mse_loss(student, teacher)]
