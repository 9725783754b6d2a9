"""Focal and global distillation."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import constant_init, kaiming_init
from torch import nn

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.gt_masks import (
    ground_truth_boxes,
    image_extents,
    scale_mask,
)
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class FGDLoss(DistillLoss):
    """Focal and global distillation of one feature map.

    Zhendong Yang, Zhe Li, Xiaohu Jiang, Yuan Gong, Zehuan Yuan, Danpei Zhao,
    Chun Yuan: Focal and Global Knowledge Distillation for Detectors. CVPR
    2022, arXiv:2111.11837. Official code: https://github.com/yzd-v/FGD.

    With F_S and F_T the two maps, the loss is alpha_fgd · fg + beta_fgd · bg +
    gamma_fgd · mask + lambda_fgd · rela, each a sum over all elements divided
    by N:

    - fg, bg: (F_S − F_T)², weighted by the teacher's spatial and channel
      attention and by 1 / area of the smallest box over a cell (fg), or
      1 / number of cells without a box (bg);
    - mask: distance of the two attentions;
    - rela: (R_S − R_T)² with R = F + context, each side's global context
      block having its own trained parameters.

    An attention is a softmax over cells, or channels, of the mean absolute
    value, times their number. Levels of one object share its blocks; the
    official code has blocks per level, as
    :class:`~kdvit_mm.models.losses.LevelWise` makes them. It also takes the
    connector for a student of other channels, ``dict(
    type='ConvModuleConnector', in_channel=..., out_channel=...,
    act_cfg=None)``.

    The paper's settings as (tau, alpha_fgd, beta_fgd, gamma_fgd, lambda_fgd):
    RetinaNet, GFL and SOLO (0.5, 1e-3, 5e-4, 5e-4, 5e-6); FCOS (0.8, 1.6e-3,
    8e-4, 8e-4, 8e-6); RepPoints the same with tau 0.5; two-stage detectors
    (0.5, 5e-5, 2.5e-5, 5e-5, 5e-7).

    Args:
        channels (int): Channels of both maps, C, at least 2.
        alpha_fgd (float): Weight of fg.
        beta_fgd (float): Weight of bg.
        gamma_fgd (float): Weight of mask.
        lambda_fgd (float): Weight of rela.
        tau (float): Temperature of the attentions, in the features' unit.
            Defaults to 0.5.
        map_covers (str): The metainfo of the samples with the size that boxes
            are relative to. ``'img_shape'`` is the released code's: the map
            covers the padded batch, so boxes of an image with padding come
            out stretched. ``'batch_input_shape'`` puts them where their
            objects are. Defaults to 'img_shape'.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``map_covers`` is neither of the two.
    """

    takes_dims = (4,)
    renamed_keys = {'temp': 'tau'}

    def __init__(
        self,
        channels: int,
        alpha_fgd: float,
        beta_fgd: float,
        gamma_fgd: float,
        lambda_fgd: float,
        tau: float = 0.5,
        map_covers: str = 'img_shape',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if map_covers not in ('img_shape', 'batch_input_shape'):
            raise ValueError(
                f"FGDLoss: map_covers is '{map_covers}'; write 'img_shape' or "
                "'batch_input_shape'."
            )
        self.channels = channels
        self.alpha_fgd = alpha_fgd
        self.beta_fgd = beta_fgd
        self.gamma_fgd = gamma_fgd
        self.lambda_fgd = lambda_fgd
        self.tau = tau
        self.map_covers = map_covers
        # Names and shapes are the official checkpoints'.
        self.conv_mask_s = nn.Conv2d(channels, 1, 1)
        self.conv_mask_t = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv_s = _bottleneck(channels)
        self.channel_add_conv_t = _bottleneck(channels)
        for conv in (self.conv_mask_s, self.conv_mask_t):
            kaiming_init(conv, mode='fan_in')
        for block in (self.channel_add_conv_s, self.channel_add_conv_t):
            constant_init(block[-1], val=0)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[Any] | None,
    ) -> list[torch.Tensor]:
        """Computes all levels.

        Args:
            students (list[torch.Tensor]): The student's maps, of shape
                (N, C, H, W) per level.
            teachers (list[torch.Tensor]): The teacher's, of the same shapes.
            data_samples (Sequence[DetDataSample] | None): The batch's samples
                with ground truth, got by ``dict(type='ModuleInputs',
                source='')`` and ``data_idx=1``; None is an error.

        Returns:
            list[torch.Tensor]: A scalar per level.

        Raises:
            ValueError: If the maps are not of ``channels`` channels, or if
                there is no ground truth.
        """
        batch = len(students[0])
        boxes, is_box = ground_truth_boxes('FGDLoss', data_samples, batch)
        assert data_samples is not None
        extents = image_extents('FGDLoss', data_samples, self.map_covers)
        losses = []
        for student, teacher in zip(students, teachers, strict=True):
            if student.size(1) != self.channels:
                raise ValueError(
                    f'FGDLoss: the maps have shape {tuple(student.shape)}, '
                    f'its channels is {self.channels}. Set '
                    f'channels={student.size(1)}.'
                )
            foreground = scale_mask(
                boxes,
                is_box,
                extents,
                (student.size(2), student.size(3)),
                student.dtype,
            ).to(student.device)
            losses.append(self._map_loss(student, teacher, foreground))
        return losses

    def _map_loss(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        foreground: torch.Tensor,
    ) -> torch.Tensor:
        batch, _, height, width = student.shape
        background = (foreground == 0).to(foreground)
        background /= background.sum((1, 2), keepdim=True).clamp(min=1)

        cells_s, channels_s = self._attention(student)
        cells_t, channels_t = self._attention(teacher)
        mask = (cells_s - cells_t).abs().sum()
        mask = mask + (channels_s - channels_t).abs().sum()

        # All sums over cells of (F_S − F_T)² come from one product.
        difference = (student - teacher).flatten(2)
        weight = self.alpha_fgd * foreground + self.beta_fgd * background
        weight = (weight * cells_t).flatten(1)
        weight = torch.stack((weight, torch.ones_like(weight)), 2)
        focal, square = (difference.square() @ weight).unbind(2)

        # Σ (D + a)² = Σ D² + 2a Σ D + HW a², a being equal on all cells.
        offset = _context(
            student, self.conv_mask_s, self.channel_add_conv_s
        ) - _context(teacher, self.conv_mask_t, self.channel_add_conv_t)
        relation = square + offset * (
            2 * difference.sum(2) + height * width * offset
        )
        return (
            (channels_t * focal).sum()
            + self.gamma_fgd * mask
            + self.lambda_fgd * relation.sum()
        ) / batch

    def _attention(
        self, feature: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of cells, (N, H, W), and of channels, (N, C)."""
        value = feature.abs()
        cells = value.mean(1)
        channels = value.mean((2, 3))
        return (
            (cells.flatten(1) / self.tau).softmax(1).view_as(cells)
            * cells[0].numel(),
            (channels / self.tau).softmax(1) * channels.size(1),
        )


def _bottleneck(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 1),
        nn.LayerNorm([channels // 2, 1, 1]),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 1),
    )


def _context(
    feature: torch.Tensor, conv_mask: nn.Conv2d, bottleneck: nn.Module
) -> torch.Tensor:
    """What a global context block adds to each channel, of shape (N, C)."""
    own = feature.to(conv_mask.weight.dtype)
    mask = conv_mask(own).flatten(2).softmax(2)
    context = own.flatten(2) @ mask.mT
    return bottleneck(context[..., None]).flatten(1).to(feature.dtype)
