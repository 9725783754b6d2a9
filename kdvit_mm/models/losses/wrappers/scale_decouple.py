"""Scale decoupling around a loss on logits."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import nn

from kdvit_mm.models.losses.response.dkd import DKDLoss
from kdvit_mm.models.losses.response.logit_loss import LogitLoss
from kdvit_mm.models.losses.response.mlld import MLLDLoss
from kdvit_mm.models.utils.class_maps import class_map
from kdvit_mm.models.utils.labels import class_of_rows
from kdvit_mm.registry import MODELS, SCOPE


@MODELS.register_module()
class ScaleDecouple(LogitLoss):
    r"""Gives a loss the logits of the whole image and of its regions.

    The map before global average pooling is averaged over M × M regions, for
    each M of ``scales``, and the network's classifier applied to each average.
    Every region of every image is a row of logits:

    .. math:: L = \frac{1}{N R} \big(n_{con}\, \ell(con)
        + w\, n_{com}\, \ell(com)\big),

    where the loss :math:`\ell` is computed on the n rows of each of two
    groups. A region is consistent (con) if the teacher is right, or wrong,
    about it and the whole image alike, else complementary (com). The sum is
    the weighted mean over the rows if :math:`\ell` is a mean over rows.

    Wei et al., *Scaled Decoupled Distillation*, CVPR 2024, arXiv:2403.13512.
    Official code: https://github.com/shicaiwei123/SDD-CVPR2024. As there,
    all scales above 1 are averages of 4 × 4 regions, and M = 1 alone is the
    loss itself. Its NKD does not leave the true class out of the others;
    :class:`NKDLoss` does.

    Around :class:`LogitStandardise` it is the fusion of SDD and LSKD::

        dict(type='kdvit_mm.ScaleDecouple',
             loss=dict(type='LogitStandardise',
                       loss=dict(type='KDLoss', tau=2, loss_weight=9)))

    The code of https://github.com/Shardzzi/SDD-LSKD-Fusion compares regions
    with the verdict on another image and adds the means of the two groups,
    without w; with DKD it sums over the rows where SDD averages.
    ``released_rows`` does the same, with a DKDLoss inside the latter.

    Args:
        loss (dict): Config of a loss on logits of shape (N, C), such as a
            ``KDLoss``, ``DKDLoss`` or ``NKDLoss``. A type without a scope is
            of this package.
        scales (Sequence[int]): Each M, some of 1, 2 and 4 with 1 among them.
            Defaults to (1, 2, 4).
        complementary_weight (float): w above. Defaults to 2.0.
        released_rows (bool): Whether rows are grouped and added up as by the
            released code of the fusion. Defaults to False.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``scales`` are others, or ``loss`` is one of two views.
    """

    takes_dims = (4,)

    def __init__(
        self,
        loss: dict,
        scales: Sequence[int] = (1, 2, 4),
        complementary_weight: float = 2.0,
        released_rows: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if 1 not in scales or not set(scales) <= {1, 2, 4}:
            raise ValueError(
                f'ScaleDecouple: scales={list(scales)} are not some of 1, 2 '
                'and 4 with 1, the whole image, among them.'
            )
        self.loss = MODELS.build({'_scope_': SCOPE, **loss})
        inside = list(self.loss.modules())
        if any(isinstance(part, MLLDLoss) for part in inside):
            raise ValueError(
                'ScaleDecouple: regions have no weak and strong views, which '
                'MLLDLoss compares. Set loss to a KDLoss, DKDLoss or NKDLoss.'
            )
        self.scales = sorted(set(scales))
        self.complementary_weight = complementary_weight
        self.released_rows = released_rows
        self.sums_rows = any(isinstance(part, DKDLoss) for part in inside)
        self.takes = signature(self.loss.forward).parameters.keys()

    def forward(  # type: ignore[override]
        self,
        preds_S: Any,
        preds_T: Any,
        fc_S: nn.Linear | None = None,
        fc_T: nn.Linear | None = None,
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None = None,
        gt_labels: torch.Tensor | None = None,
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
            data_samples (Sequence[BaseDataElement] | torch.Tensor | None):
                The batch's samples with a ``gt_label`` each, or a tensor of
                their labels. Defaults to None.
            gt_labels (torch.Tensor | None): Read in their absence: class of
                each image, an integer tensor of shape (N,). Defaults to None.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 maps.

        Raises:
            ValueError: If a classifier is missing or is not applied to the
                average of the map, the classes differ, or the labels are
                missing, soft or do not fit.
        """
        name = type(self).__name__
        size = 4 if self.scales != [1] else 1
        student = class_map(preds_S, fc_S, size, name, 'S')
        teacher = class_map(preds_T, fc_T, size, name, 'T')
        given = gt_labels if data_samples is None else data_samples
        return super().forward(student, teacher, given)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Computes the loss of class maps of shape (N, classes, 4, 4)."""
        student, teacher = (
            self._regions(maps) for maps in (students[0], teachers[0])
        )
        labels = class_of_rows(data_samples, teacher[:, 0], 'ScaleDecouple')
        labels = labels[:, None].expand(teacher.shape[:2])
        right = teacher.argmax(2) == labels
        consistent = right == self._verdicts(right)
        losses = []
        for rows, weight in (
            (consistent, 1.0),
            (~consistent, self.complementary_weight),
        ):
            number = int(rows.sum())
            if number:
                loss = self._loss(student[rows], teacher[rows], labels[rows])
                losses.append(self._share(number, rows, weight) * loss)
        return losses

    def _regions(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits (N, R, classes) of all regions, the whole image first."""
        pooled = [
            F.adaptive_avg_pool2d(maps, scale).flatten(2)
            for scale in self.scales
        ]
        return torch.cat(pooled, 2).mT

    def _verdicts(self, right: torch.Tensor) -> torch.Tensor:
        """Whether the teacher is right about the image of each region."""
        if not self.released_rows or self.sums_rows:
            return right[:, :1]
        # Rows of one region after the other take the verdicts of rows of one
        # image after the other.
        images, regions = right.shape
        return right[:, 0].repeat_interleave(regions).view(regions, images).mT

    def _share(self, number: int, rows: torch.Tensor, weight: float) -> float:
        if not self.released_rows:
            return weight * number / rows.numel()
        return weight * number if self.sums_rows else 1.0

    def _loss(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        if 'gt_labels' in self.takes:
            return self.loss(student, teacher, gt_labels=labels)
        return self.loss(student, teacher)
