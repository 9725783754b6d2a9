"""Mean squared error of features: hints."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class FeatureL2Loss(DistillLoss):
    r"""Imitates the teacher's features: their mean squared error.

    :math:`L = \overline{(F_S - F_T)^2}`, the mean over all elements of a
    level, summed over levels.

    Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015,
    arXiv:1412.6550, there with half the weight and as a stage before the
    training. Equal to https://github.com/megvii-research/mdistiller, with
    weight 100 on the middle stage, whose regressor (conv + BN + ReLU on the
    student) is mmrazor's ``ConvModuleConnector``; that starts from mmcv's
    Kaiming initialisation instead of PyTorch's. The error on differing
    shapes gives the line for them, such as ::

        dict(type='ConvModuleConnector', in_channel=64, out_channel=256,
             kernel_size=3, stride=2, padding=1, bias=True,
             norm_cfg=dict(type='BN'))

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from tensors of one shape."""
        return F.mse_loss(student, teacher)

    def suggest_fix(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        """Says what makes the two shapes equal."""
        if (
            student.shape[2:] == teacher.shape[2:]
            or student.dim() != 4
            or teacher.dim() != 4
        ):
            return super().suggest_fix(student, teacher)
        geometry = _regressor_geometry(student.shape[2:], teacher.shape[2:])
        if geometry is None:
            return 'Record both where they have one height and width.'
        return (
            "Add connectors=dict(regressor=dict(type='ConvModuleConnector', "
            f'in_channel={student.size(1)}, out_channel={teacher.size(1)}, '
            f"{geometry}, bias=True, norm_cfg=dict(type='BN'))) and "
            "connector='regressor' in the mapping of preds_S."
        )


def _regressor_geometry(
    student: torch.Size, teacher: torch.Size
) -> str | None:
    """Keys of the regressor between two (H, W), by mdistiller's rule."""
    (s_h, s_w), (t_h, t_w) = student, teacher
    if (s_h, s_w) == (2 * t_h, 2 * t_w):
        return 'kernel_size=3, stride=2, padding=1'
    if (2 * s_h, 2 * s_w) == (t_h, t_w):
        return (
            "conv_cfg=dict(type='deconv'), kernel_size=4, stride=2, padding=1"
        )
    if s_h >= t_h and s_w >= t_w:
        return f'kernel_size=({1 + s_h - t_h}, {1 + s_w - t_w})'
    return None
