"""Distillation of a RoI head on the proposals that the student sampled."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import nn

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class SharedRoILoss(DistillLoss):
    """Classifies the student's proposals with the teacher's RoI head.

    Distilling the classes of a two-stage detector takes logits of the same
    proposals. The student samples them as it does alone; the teacher's head
    classifies them on the teacher's own maps, without gradient, in eval mode
    and full precision. Nothing is delivered to the student and nothing drawn,
    so that with weight 0 it is trained as if it were alone. The teacher is
    needed up to its neck only.

    DKD (Zhao et al., CVPR 2022, arXiv:2203.08679) and its code
    https://github.com/megvii-research/mdistiller share proposals in this way.
    Guo et al. (CVPR 2021, arXiv:2103.14475) run the student's head on
    proposals that the teacher sampled.

    ``configs/_base_/distillers/dkd_roi.py`` has the recorders that it needs,
    which work with any head derived from mmdet's ``StandardRoIHead``.

    Args:
        loss (dict): Config of the loss on the logits, such as
            ``dict(type='kdvit_mm.DKDLoss', beta=0.25)``; it takes the
            student's logits, the teacher's and, if it has an argument
            ``gt_labels`` or ``labels``, the labels.
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    def __init__(self, loss: dict, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.loss = MODELS.build(loss)
        takes = signature(self.loss.forward).parameters
        self.labels_key = next(
            (key for key in ('gt_labels', 'labels') if key in takes), None
        )

    def forward(  # type: ignore[override]
        self,
        preds_S: torch.Tensor,
        rois: torch.Tensor,
        maps_T: Sequence[torch.Tensor],
        roi_head_T: nn.Module,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's logits of its R proposals,
                of shape (R, classes + 1).
            rois (torch.Tensor): The proposals, of shape (R, 5): index of the
                image, then x1, y1, x2, y2 in pixels.
            maps_T (Sequence[torch.Tensor]): All maps of the teacher's neck,
                each of shape (N, C, H, W).
            roi_head_T (nn.Module): The teacher's RoI head.
            labels (torch.Tensor | None): The proposals' assigned classes, of
                shape (R,), if the loss takes them. Defaults to None.

        Returns:
            torch.Tensor: The loss, a scalar.

        Raises:
            ValueError: If labels are needed and missing, the teacher has not
                one RoI head with a classifier, or ``maps_T`` is not the tuple
                of maps that it takes.
        """
        logits_T = teacher_logits(roi_head_T, maps_T, rois)
        if self.labels_key is None:
            return self.loss_weight * self.loss(preds_S, logits_T)
        if labels is None:
            raise ValueError(
                f'SharedRoILoss: {type(self.loss).__name__} needs the classes '
                'that the proposals were assigned. Add '
                "targets=dict(type='MethodOutputs', source="
                "'mmdet.models.roi_heads.bbox_heads.bbox_head.BBoxHead."
                "get_targets') to student_recorders and labels=dict("
                "recorder='targets', from_student=True, data_idx=0) to the "
                "loss's loss_forward_mappings."
            )
        loss = self.loss(preds_S, logits_T, **{self.labels_key: labels})
        return self.loss_weight * loss


@torch.no_grad()
def teacher_logits(
    roi_head: Any, maps: Sequence[torch.Tensor], rois: torch.Tensor
) -> torch.Tensor:
    """Classifies proposals with a RoI head in eval mode.

    Args:
        roi_head (nn.Module): A head derived from mmdet's ``StandardRoIHead``.
        maps (Sequence[torch.Tensor]): Maps of the neck, each of shape
            (N, C, H, W).
        rois (torch.Tensor): Proposals of shape (R, 5).

    Returns:
        torch.Tensor: Logits of shape (R, classes + 1), in the dtype of the
        head's parameters.

    Raises:
        ValueError: If it is another head or the maps are not those it takes.
    """
    # A cascade has an extractor for each of its stages.
    extractor = getattr(roi_head, 'bbox_roi_extractor', None)
    if extractor is None or isinstance(extractor, nn.ModuleList):
        raise ValueError(
            'SharedRoILoss: roi_head_T is a '
            f'{type(roi_head).__name__}, which lacks one bbox_roi_extractor '
            "and one bbox_head. Set source='roi_head' in the "
            'teacher_recorders and model.teacher to a two-stage detector with '
            'a StandardRoIHead, such as Faster R-CNN; the stages of a cascade '
            'classify proposals of their own.'
        )
    if isinstance(maps, torch.Tensor) or len(maps) < extractor.num_inputs:
        raise ValueError(
            f"SharedRoILoss: the teacher's RoI head takes "
            f'{extractor.num_inputs} maps, but maps_T is {describe(maps)}. '
            "Record all of them: source='neck' in the teacher_recorders and "
            'no data_idx in loss_forward_mappings.'
        )
    dtype = next(roi_head.parameters()).dtype
    with (
        _in_eval_mode(roi_head),
        torch.autocast(rois.device.type, enabled=False),
    ):
        maps = tuple(x.to(dtype) for x in maps)
        return roi_head._bbox_forward(maps, rois)['cls_score']


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Sets eval mode, which mmrazor's algorithm does not, for a while."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
