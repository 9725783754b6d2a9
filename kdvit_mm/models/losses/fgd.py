"""Focal and global distillation of one pyramid level."""

from typing import Any

import torch
from mmengine.model import constant_init, kaiming_init
from torch import nn
from torch.func import functional_call

from kdvit_mm.models.utils.feature_pairs import check_pair, in_full_precision
from kdvit_mm.models.utils.gt_masks import (
    ground_truth_boxes,
    image_extents,
    scale_mask,
)
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class FGDLoss(nn.Module):
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
    value, times their number. Map a student of other channels by the connector
    ``dict(type='ConvModuleConnector', in_channel=..., out_channel=...,
    act_cfg=None)``.

    The paper's settings as (temp, alpha_fgd, beta_fgd, gamma_fgd, lambda_fgd):
    RetinaNet, GFL and SOLO (0.5, 1e-3, 5e-4, 5e-4, 5e-6); FCOS (0.8, 1.6e-3,
    8e-4, 8e-4, 8e-6); RepPoints the same with temp 0.5; two-stage detectors
    (0.5, 5e-5, 2.5e-5, 5e-5, 5e-7).

    Args:
        channels (int): Channels of both maps, C, at least 2.
        alpha_fgd (float): Weight of fg.
        beta_fgd (float): Weight of bg.
        gamma_fgd (float): Weight of mask.
        lambda_fgd (float): Weight of rela.
        temp (float): Temperature of the attentions, in the features' unit.
            Defaults to 0.5.
        map_covers (str): The metainfo of the samples with the size that boxes
            are relative to. ``'img_shape'`` is the released code's: the map
            covers the padded batch, so boxes of an image with padding come
            out stretched. ``'batch_input_shape'`` puts them where their
            objects are. Defaults to 'img_shape'.

    Raises:
        ValueError: If ``map_covers`` is neither of the two.
    """

    def __init__(
        self,
        channels: int,
        alpha_fgd: float,
        beta_fgd: float,
        gamma_fgd: float,
        lambda_fgd: float,
        temp: float = 0.5,
        map_covers: str = 'img_shape',
    ) -> None:
        super().__init__()
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
        self.temp = temp
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

    def forward(
        self,
        preds_S: torch.Tensor,
        preds_T: torch.Tensor,
        data_samples: list[Any] | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's map, of shape (N, C, H, W).
            preds_T (torch.Tensor): The teacher's map, of the same shape; it
                gets no gradient.
            data_samples (list[DetDataSample] | None): The batch's samples
                with ground truth, got by ``dict(type='ModuleInputs',
                source='')`` and ``data_idx=1``. Defaults to None, an error.

        Returns:
            torch.Tensor: The loss, a scalar.

        Raises:
            ValueError: If the shapes differ or are not of ``channels``
                channels, or if there is no ground truth.
        """
        check_pair('FGDLoss', preds_S, preds_T)
        batch, channels, height, width = preds_S.shape
        if channels != self.channels:
            raise ValueError(
                f'FGDLoss: the maps have shape {tuple(preds_S.shape)}, its '
                f'channels is {self.channels}. Set channels={channels}.'
            )
        boxes, is_box = ground_truth_boxes('FGDLoss', data_samples, batch)
        assert data_samples is not None
        extents = image_extents('FGDLoss', data_samples, self.map_covers)
        with torch.autocast(preds_S.device.type, enabled=False):
            student, teacher = in_full_precision(preds_S, preds_T)
            foreground = scale_mask(
                boxes, is_box, extents, (height, width), student.dtype
            ).to(student.device)
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
            (cells.flatten(1) / self.temp).softmax(1).view_as(cells)
            * cells[0].numel(),
            (channels / self.temp).softmax(1) * channels.size(1),
        )


def _bottleneck(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 1),
        nn.LayerNorm([channels // 2, 1, 1]),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 1),
    )


def _context(
    feature: torch.Tensor, conv_mask: nn.Module, bottleneck: nn.Module
) -> torch.Tensor:
    """What a global context block adds to each channel, of shape (N, C)."""
    mask = _apply(conv_mask, feature).flatten(2).softmax(2)
    context = feature.flatten(2) @ mask.mT
    return _apply(bottleneck, context[..., None]).flatten(1)


def _apply(module: nn.Module, feature: torch.Tensor) -> torch.Tensor:
    """Applies a module in the feature's dtype, whatever the parameters'."""
    parameters = {k: p.to(feature) for k, p in module.named_parameters()}
    return functional_call(module, parameters, (feature,))
