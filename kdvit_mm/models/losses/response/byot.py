"""Self-distillation of a shallow stage by the deepest one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import nn

from kdvit_mm.models.losses.response.logit_loss import (
    LabelledLoss,
    soft_divergence,
)
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class BYOTLoss(LabelledLoss):
    r"""Lets a shallow stage classify, and the deepest one teach it.

    The stage's map goes through a branch, which is part of the loss: a
    bottleneck of three convolutions, each with batch norm and ReLU, that makes
    the map as small and as deep as that of the last stage, global pooling to
    features F, and a linear classifier. With the logits z and the features of
    the last stage, both without gradient, the loss is

    .. math:: L = (1 - \alpha)\, CE(z_S, y) + \alpha\, \tau^2
        KL\big(\mathrm{softmax}(z_T / \tau) \,\|\,
        \mathrm{softmax}(z_S / \tau)\big) + \lambda \|F_S - F_T\|^2,

    the mean over the images. It goes with :class:`SelfDistill`, one loss for
    each stage but the last, whose own loss is the task's. The branches are
    not in the exported student, so that early exits are not kept.

    Zhang, Song, Gao, Chen, Bao and Ma, *Be Your Own Teacher: Improve the
    Performance of Convolutional Neural Networks via Self Distillation*, ICCV
    2019, arXiv:1905.08094. The authors' code is that of the journal version,
    https://github.com/ArchipLab-LinfengZhang/pytorch-self-distillation-final,
    with :math:`\alpha` = 0.3 and :math:`\tau` = 3, without the factor
    :math:`\tau^2` and without features; mmrazor's BYOT has the factor, and the
    distance in place of its square.

    Args:
        in_channels (int): Channels of the stage's map.
        out_channels (int): Channels of the last stage's features.
        num_classes (int): Number of classes.
        stride (int): Size of the stage's map over that of the last stage.
        alpha (float): :math:`\alpha`, in [0, 1]. Defaults to 0.3.
        tau (float): Temperature :math:`\tau`. Defaults to 3.0.
        feature_weight (float): :math:`\lambda`. Defaults to 0.03.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``alpha`` is not in [0, 1] or ``tau`` not above 0.
    """

    takes_one_level = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int,
        stride: int,
        alpha: float = 0.3,
        tau: float = 3.0,
        feature_weight: float = 0.03,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if not 0 <= alpha <= 1:
            raise ValueError(
                f'BYOTLoss: alpha is a share in [0, 1], got {alpha}.'
            )
        self.alpha = alpha
        self.tau = tau
        self.feature_weight = feature_weight
        self.in_channels = in_channels
        middle = max(out_channels // 4, 1)
        self.branch = nn.Sequential(
            *_unit(in_channels, middle, 1),
            *_unit(middle, middle, stride),
            *_unit(middle, out_channels, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(out_channels, num_classes)

    def forward(  # type: ignore[override]
        self,
        preds_S: torch.Tensor,
        preds_T: torch.Tensor,
        features_T: torch.Tensor,
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None = None,
        gt_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The stage's map, shape (N, C, H, W).
            preds_T (torch.Tensor): Logits of the network, shape (N, K).
            features_T (torch.Tensor): Pooled features of its last stage, shape
                (N, out_channels).
            data_samples (Sequence[BaseDataElement] | torch.Tensor | None):
                The batch's samples with a ``gt_label`` each, or a tensor of
                their labels. Defaults to None.
            gt_labels (torch.Tensor | None): Read in their absence: class of
                each image, shape (N,). Defaults to None.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 maps; 0
            for no images.

        Raises:
            ValueError: If a shape does not fit, or the labels are missing,
                soft, other than N, or outside the classes.
        """
        if preds_S.dim() != 4 or preds_S.size(1) != self.in_channels:
            raise ValueError(
                'BYOTLoss: preds_S is a map of shape (N, '
                f'{self.in_channels}, H, W), got {describe(preds_S)}. Record '
                'the stage, and set in_channels to its channels.'
            )
        # A half-precision record outside autocast.
        dtype = self.fc.weight.dtype
        maps = preds_S.to(torch.promote_types(preds_S.dtype, dtype))
        features = self.branch(maps)
        if features.shape != features_T.shape:
            raise ValueError(
                f'BYOTLoss: features_T is {describe(features_T)}, but the '
                f'branch makes {describe(features)}. Record the pooled '
                'features of the last stage, such as "neck", and set '
                'out_channels to their channels.'
            )
        loss = super().forward(
            self.fc(features), preds_T, data_samples, gt_labels
        )
        if not len(features):
            return loss
        distances = F.mse_loss(
            features.to(loss.dtype), features_T.detach().to(loss.dtype)
        )
        weight = self.loss_weight * self.feature_weight * features.size(1)
        return loss + weight * distances

    def row_losses(  # type: ignore[override]
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Computes the loss of each row's logits, a tensor of shape (N,)."""
        task = F.cross_entropy(student, labels, reduction='none')
        soft = soft_divergence(student, teacher, self.tau)
        return (1 - self.alpha) * task + self.alpha * soft


def _unit(channels: int, out: int, size: int) -> tuple[nn.Module, ...]:
    """A convolution of steps as large as its kernel, batch norm and ReLU."""
    return (
        nn.Conv2d(channels, out, size, size, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )
