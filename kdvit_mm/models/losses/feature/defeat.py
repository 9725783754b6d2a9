"""Decoupled distillation of features and of a RoI head's classes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss, tempered
from kdvit_mm.models.utils.gt_masks import ground_truth_boxes, level_mask
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DeFeatLoss(DistillLoss):
    """Squared distance of maps, objects and background apart.

    Jianyuan Guo, Kai Han, Yunhe Wang, Han Wu, Xinghao Chen, Chunjing Xu,
    Chang Xu: Distilling Object Detectors via Decoupled Features. CVPR 2021,
    arXiv:2103.14475. Official code: https://github.com/ggjy/DeFeat.pytorch.

    With e = (F_S − F_T)² and m the level's mask of ground-truth boxes, on all
    channels, a level adds (fg_weight · Σ e·m / max(1, 2 Σ m) + bg_weight ·
    Σ e·(1 − m) / max(1, 2 Σ (1 − m))) / number of levels. A box is on the one
    level that fits its size. The student's maps go through the connector
    :class:`~kdvit_mm.models.connectors.defeat.DeFeatAdapter`.

    The official config, for VOC, has fg_weight 3 and bg_weight 12; the
    paper's for COCO are not released.

    Args:
        fg_weight (float): Weight of the cells in boxes.
        bg_weight (float): Weight of the cells outside.
        stride (int | Sequence[int]): Stride of the level that is given, in
            pixels, or the strides of all levels of a pyramid.
        level (int | None): Index of the level in the pyramid, from 0; only
            with one stride. Defaults to None.
        num_levels (int | None): Number of levels in the pyramid; only with
            one stride. Defaults to None.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``level`` is not below ``num_levels``, or one of both
            is missing with one stride.
    """

    takes_dims = (4,)

    def __init__(
        self,
        fg_weight: float,
        bg_weight: float,
        stride: int | Sequence[int],
        level: int | None = None,
        num_levels: int | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.takes_pyramid = not isinstance(stride, int)
        if isinstance(stride, int):
            if level is None or num_levels is None:
                raise ValueError(
                    f'DeFeatLoss: stride={stride} is that of one level. Set '
                    'level and num_levels, too, or stride to the strides of '
                    'all levels.'
                )
            if not 0 <= level < num_levels:
                raise ValueError(
                    f'DeFeatLoss: level {level} is not one of {num_levels} '
                    f'levels; write 0 to {num_levels - 1}.'
                )
            self.strides = {level: stride}
        else:
            self.strides = dict(enumerate(stride))
        self.fg_weight = fg_weight
        self.bg_weight = bg_weight
        self.num_levels = num_levels or len(self.strides)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[Any] | None,
    ) -> list[torch.Tensor]:
        """Computes all levels.

        Args:
            students (list[torch.Tensor]): The student's adapted maps, of
                shape (N, C, H, W) per level.
            teachers (list[torch.Tensor]): The teacher's, of the same shapes.
            data_samples (Sequence[DetDataSample] | None): The batch's samples
                with ground truth, got by ``dict(type='ModuleInputs',
                source='')`` and ``data_idx=1``; None is an error.

        Returns:
            list[torch.Tensor]: A scalar per level.

        Raises:
            ValueError: If there is not one map per level, or no ground truth.
        """
        if len(students) != len(self.strides):
            raise ValueError(
                f'DeFeatLoss: {len(students)} maps for '
                f'stride={[*self.strides.values()]}. Set data_idx of preds_S '
                'in loss_forward_mappings to the one level, or stride to the '
                'strides of all maps.'
            )
        boxes, is_box = ground_truth_boxes(
            'DeFeatLoss', data_samples, len(students[0])
        )
        return [
            self.decoupled_distance(
                student,
                teacher,
                level_mask(
                    boxes,
                    is_box,
                    (student.size(2), student.size(3)),
                    stride,
                    level,
                    self.num_levels,
                ),
            )
            for (level, stride), student, teacher in zip(
                self.strides.items(), students, teachers, strict=True
            )
        ]

    def decoupled_distance(
        self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level for a given mask.

        Args:
            student (torch.Tensor): The student's adapted map, of shape
                (N, C, H, W).
            teacher (torch.Tensor): The teacher's map, of the same shape.
            mask (torch.Tensor): 1 in objects and 0 elsewhere, of shape
                (N, H, W).

        Returns:
            torch.Tensor: The level's loss, a scalar.
        """
        distance = (student - teacher).square().sum(1)
        mask = mask.to(distance)
        loss = distance.new_zeros(())
        for weight, part in (
            (self.fg_weight, mask),
            (self.bg_weight, 1 - mask),
        ):
            count = 2 * student.size(1) * part.sum()
            loss = loss + weight * (distance * part).sum() / count.clamp(min=1)
        return loss / self.num_levels


@MODELS.register_module()
class DeFeatRoILoss(DistillLoss):
    """KL divergence of RoI classes, objects and background apart.

    Jianyuan Guo et al.: Distilling Object Detectors via Decoupled Features.
    CVPR 2021, arXiv:2103.14475. Official code:
    https://github.com/ggjy/DeFeat.pytorch.

    Both heads see the same R proposals, which
    :class:`~kdvit_mm.models.losses.SharedRoILoss` arranges: give
    it this loss. The loss is T² · (fg_weight · mean over the objects'
    proposals of KL(p_T ‖ p_S) + bg_weight · the same over the background's),
    p the softmax of logits / T.

    The official config, for VOC, has weights 2 and 2 and temperature 1.

    Args:
        fg_weight (float): Weight of the objects' proposals.
        bg_weight (float): Weight of the background's proposals.
        tau (float): Temperature, by which logits are divided. Defaults to
            1.0.
        background (str): Which label is the background.
            ``'last_logit'`` is mmdet's: the number of classes.
            ``'largest_label'`` is the released code's: the largest label in
            the batch, which is an object's where no proposal is background.
            Defaults to 'last_logit'.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``background`` is neither of the two.
    """

    takes_dims = (2,)
    renamed_keys = {'temperature': 'tau'}

    def __init__(
        self,
        fg_weight: float,
        bg_weight: float,
        tau: float = 1.0,
        background: str = 'last_logit',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if background not in ('last_logit', 'largest_label'):
            raise ValueError(
                f"DeFeatRoILoss: background is '{background}'; write "
                "'last_logit' or 'largest_label'."
            )
        self.fg_weight = fg_weight
        self.bg_weight = bg_weight
        self.tau = tau
        self.background = background

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's logits, of shape
                (R, classes + 1).
            preds_T (torch.Tensor): The teacher's logits of the same
                proposals, of the same shape; they get no gradient.
            labels (torch.Tensor | None): The proposals' labels, of shape
                (R,). Defaults to None, an error.

        Returns:
            torch.Tensor: The loss, a scalar; 0 where R is 0.

        Raises:
            ValueError: If the shapes differ or there is not one label per
                proposal.
        """
        if labels is None:
            raise ValueError(
                'DeFeatRoILoss needs the label of each proposal. Add labels '
                'to its loss_forward_mappings, as '
                'configs/_base_/distillers/defeat_fpn_roi.py does.'
            )
        if labels.shape != preds_S.shape[:1]:
            raise ValueError(
                f'DeFeatRoILoss: labels has shape {tuple(labels.shape)} and '
                f'preds_S {tuple(preds_S.shape)}. Map the labels of the same '
                'proposals, one each.'
            )
        return super().forward(preds_S, preds_T, labels)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        labels: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Computes the loss of logits of shape (R, classes + 1)."""
        (student,), (teacher,) = students, teachers
        divergence = F.kl_div(
            tempered(student, self.tau).log_softmax(1),
            tempered(teacher, self.tau).log_softmax(1),
            reduction='none',
            log_target=True,
        ).sum(1)
        background: int | torch.Tensor = student.size(1) - 1
        if self.background == 'largest_label':
            background = labels.max()
        is_background = labels == background
        loss = divergence.new_zeros(())
        for weight, part in (
            (self.fg_weight, ~is_background),
            (self.bg_weight, is_background),
        ):
            total = (divergence * part).sum()
            loss = loss + weight * total / part.sum().clamp(min=1)
        return [loss * self.tau**2]
