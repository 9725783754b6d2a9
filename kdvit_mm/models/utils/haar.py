"""The two-dimensional Haar wavelet transform, on tensors of any dtype."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def haar_dwt(
    x: torch.Tensor, levels: int = 1
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Splits maps into a low band and detail bands, finest first.

    The orthonormal Haar transform with zero padding: a map of odd height or
    width gets one row or column of zeros at the bottom or right. Equal to
    ``pywt.wavedec2(x, 'haar', mode='zero')``, whose list starts with the low
    band and goes from coarse to fine.

    Args:
        x (torch.Tensor): Maps of shape (..., H, W), floating point.
        levels (int): How often the low band is split again. Defaults to 1.

    Returns:
        tuple[torch.Tensor, list[torch.Tensor]]: The low band with shape
        (..., h, w), where h and w are H and W halved ``levels`` times and
        rounded up each time, and for each level the detail bands with shape
        (..., 3, h, w): differences of rows, of columns and of diagonals.
    """
    details = []
    for _ in range(levels):
        height, width = x.shape[-2:]
        x = F.pad(x, (0, width % 2, 0, height % 2))
        left, right = x[..., 0::2] / 2, x[..., 1::2] / 2
        total, change = left + right, left - right
        details.append(
            torch.stack(
                (
                    total[..., 0::2, :] - total[..., 1::2, :],
                    change[..., 0::2, :] + change[..., 1::2, :],
                    change[..., 0::2, :] - change[..., 1::2, :],
                ),
                dim=-3,
            )
        )
        x = total[..., 0::2, :] + total[..., 1::2, :]
    return x, details


def haar_idwt(
    low: torch.Tensor,
    details: Sequence[torch.Tensor],
    size: Sequence[int] | None = None,
) -> torch.Tensor:
    """Puts together what :func:`haar_dwt` has split.

    Args:
        low (torch.Tensor): The low band with shape (..., h, w).
        details (Sequence[torch.Tensor]): Detail bands with shape
            (..., 3, h, w) per level, finest first.
        size (Sequence[int] | None): Height and width of the result, which
            cut off the padding of odd maps. Defaults to None, the even size
            that the bands make.

    Returns:
        torch.Tensor: Maps of shape (..., H, W).
    """
    x = low
    for bands in reversed(details):
        # A level's low band is padded by at most a row and a column.
        x = x[..., : bands.size(-2), : bands.size(-1)]
        rows, columns, diagonals = bands.unbind(-3)
        total = torch.stack((x + rows, x - rows), -2).flatten(-3, -2)
        change = torch.stack(
            (columns + diagonals, columns - diagonals), -2
        ).flatten(-3, -2)
        x = torch.stack((total + change, total - change), -1).flatten(-2) / 2
    return x if size is None else x[..., : size[0], : size[1]]
