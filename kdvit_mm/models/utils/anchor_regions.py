"""Regions of anchors around ground-truth boxes."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData

from kdvit_mm.models.utils.gt_masks import ground_truth_boxes, image_extents


class AnchorRegions:
    """Finds the main and the valuable localisation region of LD.

    Args:
        loss (str): Class name of the loss, for messages.
        anchor_generator (dict): Config of mmdet's generator; one anchor per
            place.
        assigner (dict): Config of mmdet's assigner. Its ``topk`` (9 if it
            has none) sets the threshold of the valuable region, too.
        gamma (float): Lower end of the valuable region, as a share of the
            threshold.
        true_diou (bool): Whether the distance is the paper's DIoU instead of
            the released code's.

    Raises:
        ValueError: If ``anchor_generator`` has several anchors per place.
    """

    def __init__(
        self,
        loss: str,
        anchor_generator: dict,
        assigner: dict,
        gamma: float,
        true_diou: bool,
    ) -> None:
        # Here, for losses must be importable where mmdet is not installed.
        from mmdet.registry import TASK_UTILS

        self.loss = loss
        self.anchors = TASK_UTILS.build(
            {'_scope_': 'mmdet'} | anchor_generator
        )
        self.assigner = TASK_UTILS.build({'_scope_': 'mmdet'} | assigner)
        if set(self.anchors.num_base_priors) != {1}:
            raise ValueError(
                f'{loss}: anchor_generator makes '
                f'{self.anchors.num_base_priors} anchors per place. A '
                'GFL-type head has one: set ratios=[1.0] and '
                'scales_per_octave=1.'
            )
        self.topk = assigner.get('topk', 9)
        self.gamma = gamma
        self.true_diou = true_diou

    @property
    def num_levels(self) -> int:
        """Number of levels that the generator makes anchors for."""
        return self.anchors.num_levels

    @torch.no_grad()
    def __call__(
        self,
        sizes: Sequence[tuple[int, int]],
        data_samples: Sequence[Any] | None,
        batch: int,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds main and valuable region.

        Args:
            sizes (Sequence[tuple[int, int]]): Height and width of each level.
            data_samples (Sequence[DetDataSample] | None): The batch's samples.
            batch (int): Number of images, N.
            device (torch.device): Where the anchors are made.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The positive anchors, booleans
            of shape (N, A), A counting all levels, and the weights of the
            valuable region with shape (N, A).

        Raises:
            ValueError: If there is no ground truth.
        """
        boxes, is_box = ground_truth_boxes(self.loss, data_samples, batch)
        assert data_samples is not None
        levels = self.anchors.grid_priors(
            list(sizes), dtype=boxes.dtype, device=device
        )
        anchors = torch.cat(levels)
        areas = [len(level) for level in levels]
        # What GFLHead calls valid: the places that an image's padding to the
        # divisor covers, not those which only the batch's padding does.
        extents = image_extents(self.loss, data_samples, 'pad_shape')
        place = torch.cat(
            [
                torch.cartesian_prod(
                    torch.arange(height, device=device) * stride[1],
                    torch.arange(width, device=device) * stride[0],
                ).flip(1)
                for (height, width), stride in zip(
                    sizes, self.anchors.strides, strict=True
                )
            ]
        )
        inside = (place < extents.to(device)[:, None, :2]).all(2)

        positive = torch.zeros_like(inside)
        # mmdet's assigners take one image.
        for index, sample in enumerate(data_samples):
            truth = InstanceData(
                bboxes=boxes[index, is_box[index]],
                labels=sample.gt_instances.labels,
            )
            assigned = self.assigner.assign(
                pred_instances=InstanceData(priors=anchors[inside[index]]),
                num_level_priors=[
                    int(flags.sum()) for flags in inside[index].split(areas)
                ],
                gt_instances=truth,
                gt_instances_ignore=_ignored(sample),
            )
            positive[index, inside[index]] = assigned.gt_inds > 0

        image = is_box.nonzero()[:, 0]
        valuable = self.valuable_region(
            anchors, areas, boxes[is_box], image, inside
        )
        return positive, valuable

    def valuable_region(
        self,
        anchors: torch.Tensor,
        areas: Sequence[int],
        boxes: torch.Tensor,
        image: torch.Tensor,
        inside: torch.Tensor,
    ) -> torch.Tensor:
        """Weights of the valuable localisation region.

        Args:
            anchors (torch.Tensor): Anchors of all levels with shape (A, 4).
            areas (Sequence[int]): Number of anchors of each level.
            boxes (torch.Tensor): All images' boxes with shape (K, 4).
            image (torch.Tensor): The image of each box with shape (K,).
            inside (torch.Tensor): Anchors that an image has, booleans of
                shape (N, A).

        Returns:
            torch.Tensor: IoU of anchor and box where the anchor is in the
            region, 0 elsewhere, with shape (N, A).
        """
        iou, closeness = _overlaps(anchors, boxes, self.true_diou)
        inside_of_box = inside[image]
        distance = torch.linalg.vector_norm(
            _centres(anchors) - _centres(boxes)[:, None], dim=2
        ).masked_fill(~inside_of_box, torch.inf)
        start = 0
        picked = []
        for level in distance.split(list(areas), dim=1):
            nearest = level.topk(min(self.topk, level.size(1)), largest=False)
            picked.append(nearest.indices + start)
            start += level.size(1)
        candidates = torch.cat(picked, dim=1)
        # Levels on which an image has fewer than topk anchors give fewer.
        valid = inside_of_box.gather(1, candidates)
        values = iou.gather(1, candidates) * valid
        number = valid.sum(1, keepdim=True)
        mean = values.sum(1, keepdim=True) / number
        variance = ((values - mean).square() * valid).sum(1, keepdim=True)
        threshold = mean + (variance / (number - 1)).sqrt()

        region = inside_of_box & (closeness < threshold)
        region &= closeness >= self.gamma * threshold
        weights = iou.new_zeros(inside.shape)
        weights.scatter_reduce_(
            0, image[:, None].expand_as(iou), iou * region, 'amax'
        )
        return weights


def _centres(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _overlaps(
    anchors: torch.Tensor, boxes: torch.Tensor, true_diou: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and D of boxes (K, 4) and anchors (A, 4), both of shape (K, A)."""
    boxes = boxes[:, None]
    shared = torch.minimum(anchors[:, 2:], boxes[..., 2:])
    shared = (shared - torch.maximum(anchors[:, :2], boxes[..., :2])).clamp(0)
    hull = torch.maximum(anchors[:, 2:], boxes[..., 2:])
    hull = (hull - torch.minimum(anchors[:, :2], boxes[..., :2])).clamp(0)
    overlap = shared.prod(-1)
    area = (anchors[:, 2:] - anchors[:, :2]).prod(-1)
    union = area + (boxes[..., 2:] - boxes[..., :2]).prod(-1) - overlap
    iou = overlap / union.clamp(1e-6)
    # Twice the distance of the centres, by axis.
    offset = (anchors[:, :2] + anchors[:, 2:]) - (
        boxes[..., :2] + boxes[..., 2:]
    )
    apart = offset.square().sum(-1) / 4 / hull.square().sum(-1).clamp(1e-6)
    return iou, (iou if true_diou else overlap / area.clamp(1e-6)) - apart


def _ignored(sample: Any) -> InstanceData | None:
    ignored = getattr(sample, 'ignored_instances', None)
    if ignored is None:
        return None
    return InstanceData(
        bboxes=getattr(ignored.bboxes, 'tensor', ignored.bboxes)
    )
