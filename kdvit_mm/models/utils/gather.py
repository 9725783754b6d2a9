"""Rows of all processes of a training."""

from typing import Any

import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenates the rows of all ranks, in the order of the ranks.

    The gradient of a row goes back to the rank that it is from, summed over
    all ranks. All ranks have to call it, and all or none go backward.

    Args:
        rows (torch.Tensor): Rows of shape (N, …); N may differ between ranks.

    Returns:
        torch.Tensor: The rows of all ranks, of the same shape but for N; the
        argument itself where there is one rank.

    Raises:
        ValueError: On all ranks, if their rows have different shapes.
    """
    return rows if get_world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """The rows of all ranks, with their gradients."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        shape = torch.tensor(rows.shape, device=rows.device)
        shapes = torch.stack(all_gather(shape))
        if (shapes[:, 1:] != shape[1:]).any():
            raise ValueError(
                'Ranks have records of different sizes, of shapes '
                f'{shapes.tolist()}. Crop or resize all images to one size '
                'in train_dataloader.dataset.pipeline.'
            )
        numbers = shapes[:, 0].tolist()
        ctx.first = sum(numbers[: get_rank()])
        ctx.number = len(rows)
        padded = rows.new_zeros(max(numbers), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat(
            [
                part[:number]
                for part, number in zip(
                    all_gather(padded), numbers, strict=True
                )
            ]
        )

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        # A copy: the gradient may be that of other uses too.
        total = grad.clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return total[ctx.first : ctx.first + ctx.number]
