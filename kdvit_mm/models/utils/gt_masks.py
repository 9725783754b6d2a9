"""Masks of ground-truth boxes on feature maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

#: Boxes whose maps are in memory at once.
_BOXES = 16


def ground_truth_boxes(
    loss: str, data_samples: Sequence[Any] | None, batch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gathers the boxes of a batch in one tensor.

    Args:
        loss (str): Class name of the loss, for the message.
        data_samples (Sequence[DetDataSample] | None): The batch's samples;
            boxes are tensors of shape (B, 4) or mmdet's box objects.
        batch (int): Number of images, N.

    Returns:
        tuple[torch.Tensor, torch.Tensor]: Boxes of shape (N, B, 4) as x1, y1,
        x2, y2 in pixels of the resized image, B the largest number of boxes
        in an image; and of shape (N, B), True where there is a box.

    Raises:
        ValueError: If there is no ground truth, or not one a sample; names
            the recorder and the mapping to add.
    """
    if data_samples is None or not all(
        'bboxes' in getattr(sample, 'gt_instances', ())
        for sample in data_samples
    ):
        raise ValueError(
            f'{loss} needs the ground-truth boxes (gt_instances.bboxes). Add '
            "data_samples=dict(type='ModuleInputs', source='') to "
            'student_recorders and data_samples=dict('
            "recorder='data_samples', from_student=True, data_idx=1) to the "
            "loss's loss_forward_mappings."
        )
    if len(data_samples) != batch:
        raise ValueError(
            f'{loss}: {len(data_samples)} data_samples for a batch of '
            f'{batch}. Record both in the same forward.'
        )
    boxes = [sample.gt_instances.bboxes for sample in data_samples]
    boxes = [getattr(box, 'tensor', box) for box in boxes]
    counts = torch.tensor([len(box) for box in boxes], device=boxes[0].device)
    padded = pad_sequence(boxes, batch_first=True).detach()
    padded = padded.to(torch.promote_types(padded.dtype, torch.float32))
    index = torch.arange(padded.size(1), device=padded.device)
    return padded, index < counts[:, None]


def image_extents(
    loss: str, data_samples: Sequence[Any], key: str
) -> torch.Tensor:
    """Sizes of a batch's images, to divide boxes by.

    Args:
        loss (str): Class name of the loss, for the message.
        data_samples (Sequence[DetDataSample]): The batch's samples.
        key (str): The metainfo to read, such as ``'img_shape'``.

    Returns:
        torch.Tensor: Width, height, width, height in pixels, of shape (N, 4).

    Raises:
        ValueError: If a sample lacks the key.
    """
    for sample in data_samples:
        if key not in sample.metainfo:
            raise ValueError(
                f"{loss}: data_samples have no '{key}' in their metainfo; "
                "add it to meta_keys of the pipeline's PackDetInputs. "
                f'They have: {", ".join(sample.metainfo)}.'
            )
    shapes = [sample.metainfo[key] for sample in data_samples]
    return torch.tensor([(shape[1], shape[0]) * 2 for shape in shapes])


def scale_mask(
    boxes: torch.Tensor,
    is_box: torch.Tensor,
    extents: torch.Tensor,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """FGD's scale mask: 1 / area of the smallest box that covers a cell.

    A box scaled by map size / image size covers the cells from the floor of
    its start to the ceiling of its end, both included. Its area counts cells
    beyond the border too.

    Args:
        boxes (torch.Tensor): Of shape (N, B, 4), x1, y1, x2, y2 in pixels.
        is_box (torch.Tensor): Of shape (N, B), False for padding.
        extents (torch.Tensor): Width, height, width, height in pixels of what
            the map covers, of shape (N, 4).
        shape (tuple[int, int]): Height and width of the map, H and W.
        dtype (torch.dtype): Of the mask. Defaults to torch.float32.

    Returns:
        torch.Tensor: Of shape (N, H, W), 0 where there is no box.
    """
    height, width = shape
    scaled = boxes / extents.to(boxes)[:, None]
    scaled = scaled * boxes.new_tensor((width, height) * 2)
    start = scaled[..., :2].floor()
    stop = torch.maximum(scaled[..., 2:].ceil() + 1, start)
    area = (stop - start).prod(2)
    # A box without cells, such as padding, has no value.
    area = area.masked_fill(~is_box | (area == 0), torch.inf)
    value = area.to(dtype).reciprocal()

    def covered(axis: int, length: int) -> torch.Tensor:
        cells = torch.arange(length, device=boxes.device)
        after = cells >= start[..., axis, None]
        return (after & (cells < stop[..., axis, None])).to(dtype)

    rows = covered(1, height) * value[..., None]
    columns = covered(0, width)
    mask = value.new_zeros(len(boxes), height, width)
    # A few boxes at a time, or all of them would be in memory as maps.
    for first in range(0, boxes.size(1), _BOXES):
        part = slice(first, first + _BOXES)
        maps = rows[:, part, :, None] * columns[:, part, None]
        mask = torch.maximum(mask, maps.amax(1))
    return mask


def level_mask(
    boxes: torch.Tensor,
    is_box: torch.Tensor,
    shape: tuple[int, int],
    stride: int,
    level: int,
    num_levels: int,
) -> torch.Tensor:
    """Mask of the cells of the boxes that belong to one pyramid level.

    A box of width w and height h belongs to level
    ⌊log2(√((w + 1)(h + 1)) / 56)⌋, clamped to the levels there are. It covers
    the cells from x1 / stride to before x2 / stride, both truncated, and one
    cell where that leaves no width or no height.

    Args:
        boxes (torch.Tensor): Of shape (N, B, 4), x1, y1, x2, y2 in pixels.
        is_box (torch.Tensor): Of shape (N, B), False for padding.
        shape (tuple[int, int]): Height and width of the map, H and W.
        stride (int): Pixels per cell.
        level (int): The map's index in the pyramid, from 0.
        num_levels (int): Number of levels in the pyramid.

    Returns:
        torch.Tensor: Of shape (N, H, W), 1 in a box and 0 elsewhere.
    """
    height, width = shape
    x1, y1, x2, y2 = boxes.unbind(-1)
    scale = ((x2 - x1 + 1) * (y2 - y1 + 1)).sqrt()
    # The small term is the official code's: it rounds 56 * 2**k up.
    own = (scale / 56 + 1e-6).log2().floor().clamp(0, num_levels - 1)
    left, top, right, bottom = (
        (edge / stride).trunc() for edge in (x1, y1, x2, y2)
    )
    left, top = left.clamp(min=0), top.clamp(min=0)
    right, bottom = right.clamp(max=width), bottom.clamp(max=height)
    is_point = (left == right) | (top == bottom)
    right = torch.where(is_point, left + 1, right)
    bottom = torch.where(is_point, top + 1, bottom)
    bottom = bottom.where(is_box & (own == level), 0)
    rows = _between(top, bottom, height).float()
    columns = _between(left, right, width).float()
    return (rows.mT @ columns > 0).to(boxes.dtype)


def _between(
    start: torch.Tensor, stop: torch.Tensor, size: int
) -> torch.Tensor:
    """True from ``start`` to before ``stop``, (N, B) to (N, B, size)."""
    cells = torch.arange(size, device=start.device)
    return (start[..., None] <= cells) & (cells < stop[..., None])
