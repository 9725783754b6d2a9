"""Decoupled distillation of features and of a RoI head's classes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.models.utils.feature_pairs import check_pair, in_full_precision
from kdvit_mm.models.utils.gt_masks import ground_truth_boxes, level_mask
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DeFeatLoss(nn.Module):
    """Squared distance of one pyramid level, objects and background apart.

    Jianyuan Guo, Kai Han, Yunhe Wang, Han Wu, Xinghao Chen, Chunjing Xu,
    Chang Xu: Distilling Object Detectors via Decoupled Features. CVPR 2021,
    arXiv:2103.14475. Official code: https://github.com/ggjy/DeFeat.pytorch.

    With e = (F_S − F_T)² and m the level's mask of ground-truth boxes, on all
    channels, the loss is (fg_weight · Σ e·m / max(1, 2 Σ m) + bg_weight ·
    Σ e·(1 − m) / max(1, 2 Σ (1 − m))) / num_levels. A box is on the one level
    that fits its size. The student's map goes through the connector
    :class:`~kdvit_mm.models.connectors.defeat.DeFeatAdapter`.

    The official config, for VOC, has fg_weight 3 and bg_weight 12; the
    paper's for COCO are not released.

    Args:
        fg_weight (float): Weight of the cells in boxes.
        bg_weight (float): Weight of the cells outside.
        stride (int): Pixels a cell of this level.
        level (int): This level's index in the pyramid, from 0.
        num_levels (int): Number of levels that are distilled.

    Raises:
        ValueError: If ``level`` is not below ``num_levels``.
    """

    def __init__(
        self,
        fg_weight: float,
        bg_weight: float,
        stride: int,
        level: int,
        num_levels: int,
    ) -> None:
        super().__init__()
        if not 0 <= level < num_levels:
            raise ValueError(
                f'DeFeatLoss: level {level} is not one of {num_levels} '
                f'levels; write 0 to {num_levels - 1}.'
            )
        self.fg_weight = fg_weight
        self.bg_weight = bg_weight
        self.stride = stride
        self.level = level
        self.num_levels = num_levels

    def forward(
        self,
        preds_S: torch.Tensor,
        preds_T: torch.Tensor,
        data_samples: list[Any] | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's adapted map, of shape
                (N, C, H, W).
            preds_T (torch.Tensor): The teacher's map, of the same shape; it
                gets no gradient.
            data_samples (list[DetDataSample] | None): The batch's samples
                with ground truth, got by ``dict(type='ModuleInputs',
                source='')`` and ``data_idx=1``. Defaults to None, an error.

        Returns:
            torch.Tensor: The loss, a scalar.

        Raises:
            ValueError: If the shapes differ or there is no ground truth.
        """
        check_pair('DeFeatLoss', preds_S, preds_T)
        boxes, is_box = ground_truth_boxes(
            'DeFeatLoss', data_samples, len(preds_S)
        )
        with torch.autocast(preds_S.device.type, enabled=False):
            mask = level_mask(
                boxes,
                is_box,
                (preds_S.size(2), preds_S.size(3)),
                self.stride,
                self.level,
                self.num_levels,
            )
            return self.decoupled_distance(preds_S, preds_T, mask)

    def decoupled_distance(
        self, preds_S: torch.Tensor, preds_T: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Computes the loss for a given mask.

        Args:
            preds_S (torch.Tensor): The student's adapted map, of shape
                (N, C, H, W).
            preds_T (torch.Tensor): The teacher's map, of the same shape.
            mask (torch.Tensor): 1 in objects and 0 elsewhere, of shape
                (N, H, W).

        Returns:
            torch.Tensor: The loss, a scalar.
        """
        student, teacher = in_full_precision(preds_S, preds_T)
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
class DeFeatRoILoss(nn.Module):
    """KL divergence of RoI classes, objects and background apart.

    Jianyuan Guo et al.: Distilling Object Detectors via Decoupled Features.
    CVPR 2021, arXiv:2103.14475. Official code:
    https://github.com/ggjy/DeFeat.pytorch.

    Both heads see the same R proposals, which
    :class:`~kdvit_mm.models.losses.shared_roi.SharedRoILoss` arranges: give
    it this loss. The loss is T² · (fg_weight · mean over the objects'
    proposals of KL(p_T ‖ p_S) + bg_weight · the same over the background's),
    p the softmax of logits / T.

    The official config, for VOC, has weights 2 and 2 and temperature 1.

    Args:
        fg_weight (float): Weight of the objects' proposals.
        bg_weight (float): Weight of the background's proposals.
        temperature (float): T. Defaults to 1.
        background (str): Which label is the background.
            ``'last_logit'`` is mmdet's: the number of classes.
            ``'largest_label'`` is the released code's: the largest label in
            the batch, which is an object's where no proposal is background.
            Defaults to 'last_logit'.

    Raises:
        ValueError: If ``background`` is neither of the two.
    """

    def __init__(
        self,
        fg_weight: float,
        bg_weight: float,
        temperature: float = 1,
        background: str = 'last_logit',
    ) -> None:
        super().__init__()
        if background not in ('last_logit', 'largest_label'):
            raise ValueError(
                f"DeFeatRoILoss: background is '{background}'; write "
                "'last_logit' or 'largest_label'."
            )
        self.fg_weight = fg_weight
        self.bg_weight = bg_weight
        self.temperature = temperature
        self.background = background

    def forward(
        self,
        preds_S: torch.Tensor,
        preds_T: torch.Tensor,
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
            ValueError: If the shapes differ or there is not one label a
                proposal.
        """
        check_pair('DeFeatRoILoss', preds_S, preds_T)
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
        with torch.autocast(preds_S.device.type, enabled=False):
            student, teacher = in_full_precision(preds_S, preds_T)
            divergence = F.kl_div(
                (student / self.temperature).log_softmax(1),
                (teacher / self.temperature).log_softmax(1),
                reduction='none',
                log_target=True,
            ).sum(1)
            background: int | torch.Tensor = preds_S.size(1) - 1
            if self.background == 'largest_label' and len(labels):
                background = labels.max()
            is_background = labels == background
            loss = divergence.new_zeros(())
            for weight, part in (
                (self.fg_weight, ~is_background),
                (self.bg_weight, is_background),
            ):
                total = (divergence * part).sum()
                loss = loss + weight * total / part.sum().clamp(min=1)
            return loss * self.temperature**2
