"""Overhaul of feature distillation."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.explain import LOSS_NAME, describe
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class OFDLoss(DistillLoss):
    r"""Squared error of features before their ReLU, where it matters.

    With t the larger of the teacher's value and its channel's margin m,

    .. math:: L = \frac{1}{N} \sum [s > t \lor t > 0] (s - t)^2,

    a sum over channels and positions: what the teacher's ReLU would cut off
    need only be below t in the student. The margin is the mean of the
    negative values of the teacher's channel, as its batch norm before the
    ReLU tells: :math:`m = E[x | x < 0]`, x normal with mean β and deviation
    :math:`|γ|`; or :math:`-3 |γ|` where at most a thousandth of x is
    negative.

    Heo, Kim, Yun, Park, Kwak and Choi, *A Comprehensive Overhaul of Feature
    Distillation*, ICCV 2019, arXiv:1904.01866. Official code:
    https://github.com/clovaai/overhaul-distillation, which divides the sum
    by N outside of its loss. Where heights or widths differ the teacher's
    map is averaged to the student's, as in
    https://github.com/megvii-research/mdistiller. A γ of 0, a division by
    zero there, is the limit of small ones here. Both run the teacher in train
    mode, on statistics of the batch; ``LeanTeacherDistill`` has it in eval
    mode.

    One loss per stage. Margins are read from the teacher's batch norm each
    time, so there is nothing to initialise; in a ResNet of mmpretrain, whose
    blocks call their ``relu`` on the sum last (``record_idx`` 2 for
    bottlenecks, 1 for basic blocks)::

        student_recorders=dict(
            stage4=dict(type='ModuleInputs', source='backbone.layer4.1.relu')),
        teacher_recorders=dict(
            stage4=dict(type='ModuleInputs', source='backbone.layer4.2.relu'),
            norm4=dict(type='kdvit_mm.Module',
                       source='backbone.layer4.2.bn3')),
        connectors=dict(
            stage4=dict(type='ConvModuleConnector', in_channel=512,
                        out_channel=2048, norm_cfg=dict(type='BN'),
                        act_cfg=None)),
        distill_losses=dict(
            loss_stage4=dict(type='kdvit_mm.OFDLoss', loss_weight=1e-4)),
        loss_forward_mappings=dict(
            loss_stage4=dict(
                preds_S=dict(recorder='stage4', from_student=True,
                             record_idx=1, data_idx=0, connector='stage4'),
                preds_T=dict(recorder='stage4', from_student=False,
                             record_idx=2, data_idx=0),
                norm_T=dict(recorder='norm4', from_student=False)))

    mmrazor has a class of the same name, which it divides by 1000: write
    ``type='kdvit_mm.OFDLoss'``. The paper's weights of the last stage are
    1e-3 for CIFAR-100, 1e-4 for ImageNet and 1e-5 for segmentation, and half
    of the next stage's for each stage before.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    takes_dims = (4,)
    equal_dims = 2

    def forward(  # type: ignore[override]
        self, preds_S: Any, preds_T: Any, norm_T: Any = None
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's map before the ReLU, after
                its connector, of shape (N, C, H, W).
            preds_T (torch.Tensor): The teacher's map before the ReLU, of
                shape (N, C, H', W').
            norm_T (nn.Module | None): The teacher's batch norm before the
                ReLU, of C channels.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 input;
            0 for empty input.

        Raises:
            ValueError: If ``norm_T`` is not a batch norm with weight and bias
                of C channels, or the shapes do not fit.
        """
        if not (isinstance(norm_T, _BatchNorm) and norm_T.affine):
            raise ValueError(
                f'OFDLoss: norm_T is {describe(norm_T)}, not a batch norm '
                'with weight and bias, from which the margin comes. Record '
                "the teacher's last one before the ReLU: norm=dict(type="
                "'kdvit_mm.Module', source='backbone.layer4.2.bn3') in "
                "teacher_recorders and norm_T=dict(recorder='norm', "
                'from_student=False) in the loss_forward_mappings of '
                f'{LOSS_NAME}.'
            )
        return super().forward(preds_S, preds_T, norm_T)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        norm: _BatchNorm,
    ) -> list[torch.Tensor]:
        """Computes maps of shape (N, C, H, W) with margins from ``norm``."""
        margin = batch_norm_margin(norm).to(students[0])[:, None, None]
        return [
            self._map_loss(student, teacher, margin)
            for student, teacher in zip(students, teachers, strict=True)
        ]

    def _map_loss(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        margin: torch.Tensor,
    ) -> torch.Tensor:
        if teacher.size(1) != len(margin):
            raise ValueError(
                f'OFDLoss: norm_T has {len(margin)} channels and preds_T the '
                f'shape {describe(teacher)}. Record the batch norm that comes '
                'before the ReLU of preds_T.'
            )
        if student.shape[2:] != teacher.shape[2:]:
            size = (student.size(2), student.size(3))
            teacher = F.adaptive_avg_pool2d(teacher, size)
        target = torch.maximum(teacher, margin)
        matters = (student > target) | (target > 0)
        student = torch.where(matters, student, target)
        return F.mse_loss(student, target, reduction='sum') / len(student)

    def suggest_fix(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        """Says what makes the two shapes equal."""
        return (
            'Map the channels with a connector: connectors=dict(stage=dict('
            f"type='ConvModuleConnector', in_channel={student.size(1)}, "
            f"out_channel={teacher.size(1)}, norm_cfg=dict(type='BN'), "
            "act_cfg=None)) and connector='stage' in the mapping of preds_S."
        )


@torch.no_grad()
def batch_norm_margin(norm: _BatchNorm) -> torch.Tensor:
    """Mean of the negative values that a batch norm puts out.

    Args:
        norm (nn.Module): A batch norm with weight and bias.

    Returns:
        torch.Tensor: A margin per channel, of shape (C,), at least float32.
    """
    dtype = torch.promote_types(norm.weight.dtype, torch.float32)
    deviation, mean = norm.weight.to(dtype).abs(), norm.bias.to(dtype)
    ratio = mean / deviation.clamp_min(torch.finfo(dtype).tiny)
    negative = torch.special.ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    conditional = mean - deviation * density / negative
    return conditional.where(negative > 0.001, -3 * deviation)
