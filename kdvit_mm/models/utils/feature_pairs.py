"""What every loss on a student's and a teacher's record needs."""

from functools import reduce

import torch

from kdvit_mm.models.utils.explain import (
    LOSS_NAME,
    connector_line,
    describe,
)


def check_pair(
    loss: str, preds_S: torch.Tensor, preds_T: torch.Tensor
) -> None:
    """Checks that two records are tensors of one shape.

    Args:
        loss (str): Class name of the loss, for the message.
        preds_S (torch.Tensor): The student's record.
        preds_T (torch.Tensor): The teacher's record.

    Raises:
        ValueError: If one is not a tensor or the shapes differ; names both
            and the mend.
    """
    message = (
        f'{loss}: preds_S has shape {describe(preds_S)} and preds_T '
        f'{describe(preds_T)}.'
    )
    for name, record in (('preds_S', preds_S), ('preds_T', preds_T)):
        if not isinstance(record, torch.Tensor):
            raise ValueError(
                f'{message} Set data_idx of {name} in loss_forward_mappings '
                'to the one level that the loss takes.'
            )
    if preds_S.shape == preds_T.shape:
        return
    line = connector_line(LOSS_NAME, preds_S, preds_T)
    if line:
        message += f' Add {line}.'
    if preds_S.shape[2:] != preds_T.shape[2:]:
        message += (
            ' The sizes differ: map both to the same level by data_idx in '
            'loss_forward_mappings.'
        )
    raise ValueError(message)


def in_full_precision(
    preds_S: torch.Tensor, preds_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both records as float32, or float64 if one is; the teacher's detached.

    Args:
        preds_S (torch.Tensor): The student's record, any shape.
        preds_T (torch.Tensor): The teacher's record, any shape.

    Returns:
        tuple[torch.Tensor, torch.Tensor]: The two, of their own shapes.
    """
    dtype = reduce(
        torch.promote_types, (preds_S.dtype, preds_T.dtype), torch.float32
    )
    return preds_S.to(dtype), preds_T.detach().to(dtype)
