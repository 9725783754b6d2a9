"""Masks of ground-truth boxes on feature maps, without a loop over boxes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

# An int64 has 63 bits beside its sign.
_WORD = 63


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


def image_sizes(
    loss: str, data_samples: Sequence[Any], key: str
) -> torch.Tensor:
    """Heights and widths of a batch's images.

    Args:
        loss (str): Class name of the loss, for the message.
        data_samples (Sequence[DetDataSample]): The batch's samples.
        key (str): The metainfo to read, such as ``'img_shape'``.

    Returns:
        torch.Tensor: Of shape (N, 2), height and width in pixels.

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
    return torch.tensor(
        [sample.metainfo[key][:2] for sample in data_samples],
        dtype=torch.float64,
    )


def covered(
    start: torch.Tensor, stop: torch.Tensor, size: int
) -> torch.Tensor:
    """Which of ``size`` cells lie in intervals.

    Args:
        start (torch.Tensor): First cells, of shape (N, B).
        stop (torch.Tensor): Cells after the last, of shape (N, B).
        size (int): Number of cells.

    Returns:
        torch.Tensor: Booleans of shape (N, B, size).
    """
    cells = torch.arange(size, device=start.device)
    return (start[..., None] <= cells) & (cells < stop[..., None])


def scale_mask(
    boxes: torch.Tensor,
    is_box: torch.Tensor,
    sizes: torch.Tensor,
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
        sizes (torch.Tensor): Of shape (N, 2), height and width in pixels that
            the map covers.
        shape (tuple[int, int]): Height and width of the map, H and W.
        dtype (torch.dtype): Of the mask. Defaults to torch.float32.

    Returns:
        torch.Tensor: Of shape (N, H, W), 0 where there is no box.
    """
    height, width = shape
    cells = torch.tensor((width, height) * 2).to(boxes)
    scaled = boxes / sizes.to(boxes).flip(1).repeat(1, 2)[:, None] * cells
    edges = torch.cat((scaled[..., :2].floor(), scaled[..., 2:].ceil() + 1), 2)
    extents = (edges[..., 2:] - edges[..., :2]).clamp(min=1)
    area = extents.prod(2).masked_fill(~is_box, torch.inf)
    # Padding comes last, and a cell's first box is its smallest.
    area, order = area.sort(dim=1)
    order = order[..., None].expand(-1, -1, 4)
    left, top, right, bottom = edges.gather(1, order).unbind(2)
    rows = covered(top, bottom, height) & area.isfinite()[..., None]
    first = _first_common(rows, covered(left, right, width))
    value = torch.nn.functional.pad(area.to(dtype).reciprocal(), (0, 1))
    return value.gather(1, first.flatten(1)).view(first.shape)


def _first_common(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Index of the first of B boxes over each cell, B where there is none.

    The boxes over a row, or a column, are a set of bits; those over a cell
    are the intersection of its row's and its column's. This needs B / 63
    words a cell instead of B values.

    Args:
        rows (torch.Tensor): Booleans of shape (N, B, H).
        columns (torch.Tensor): Booleans of shape (N, B, W).

    Returns:
        torch.Tensor: Integers of shape (N, H, W).
    """
    boxes = rows.size(1)
    words = boxes // _WORD + 1
    bits = 1 << torch.arange(_WORD, device=rows.device)

    def pack(member: torch.Tensor) -> torch.Tensor:
        member = torch.nn.functional.pad(
            member, (0, 0, 0, words * _WORD - boxes)
        )
        member = member.unflatten(1, (words, _WORD))
        return (member * bits[:, None]).sum(2)

    common = pack(rows)[..., :, None] & pack(columns)[..., None, :]
    # The lowest bit, 2**k, has the exponent k + 1 and 0 has the exponent 0.
    exponent = (common & -common).float().frexp().exponent
    offset = _WORD * torch.arange(words, device=rows.device) - 1
    first = exponent + offset[:, None, None]
    return first.masked_fill(exponent == 0, boxes).amin(1)


def level_mask(
    boxes: torch.Tensor,
    is_box: torch.Tensor,
    shape: tuple[int, int],
    stride: int,
    level: int,
    num_levels: int,
) -> torch.Tensor:
    """DeFeat's mask: cells of the boxes that belong to one pyramid level.

    A box of width w and height h belongs to level
    ⌊log2(√((w + 1)(h + 1)) / 56)⌋, clamped to the levels there are. It covers
    the cells from x1 / stride to before x2 / stride, both truncated, and one
    cell where that leaves no width or no height.

    Args:
        boxes (torch.Tensor): Of shape (N, B, 4), x1, y1, x2, y2 in pixels.
        is_box (torch.Tensor): Of shape (N, B), False for padding.
        shape (tuple[int, int]): Height and width of the map, H and W.
        stride (int): Pixels a cell.
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
    rows = covered(top, bottom, height)
    rows &= (is_box & (own == level))[..., None]
    columns = covered(left, right, width)
    count = rows.float().transpose(1, 2) @ columns.float()
    return (count > 0).to(boxes.dtype)
