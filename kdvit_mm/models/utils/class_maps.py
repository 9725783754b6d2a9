"""What a classifier says of each place, before global average pooling."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.models.utils.explain import LOSS_NAME, describe


def class_map(
    maps: Any,
    classifier: nn.Module | None,
    size: int | None,
    loss_name: str,
    side: str,
) -> torch.Tensor:
    """Applies a classifier to a map instead of to its average.

    The mean of the class map over all places is the network's logits.

    Args:
        maps (torch.Tensor): Map of shape (N, C, H, W) that the network
            averages over H and W.
        classifier (nn.Linear | None): What it applies to the average.
        size (int | None): The map is pooled to (size, size) first; None
            leaves it.
        loss_name (str): Class of the loss, for messages.
        side (str): ``'S'`` or ``'T'``, for messages.

    Returns:
        torch.Tensor: Logits of shape (N, classes, size, size), in at least
        float32.

    Raises:
        ValueError: If there is no classifier, or it is not applied to the
            average of such a map; says what to record.
    """
    recorders = {'S': 'student_recorders', 'T': 'teacher_recorders'}[side]
    if classifier is None:
        raise ValueError(
            f'{loss_name} needs the classifier. Add fc=dict(type='
            f"'kdvit_mm.Module', source='head.fc') to {recorders} and "
            f"fc_{side}=dict(recorder='fc', from_student={side == 'S'}) to "
            f'loss_forward_mappings.{LOSS_NAME}.'
        )
    if not (
        isinstance(maps, torch.Tensor)
        and maps.dim() == 4
        and isinstance(classifier, nn.Linear)
        and maps.size(1) == classifier.in_features
    ):
        what = type(classifier).__name__
        if isinstance(classifier, nn.Linear):
            what += f' of {classifier.in_features} features'
        raise ValueError(
            f'{loss_name} takes the map (N, C, H, W) whose global average '
            f'the classifier, a Linear, gets. preds_{side} is '
            f'{describe(maps)} and fc_{side} a {what}. Record the map with '
            "dict(type='kdvit_mm.PooledMap', source='neck.gap') in "
            f'{recorders} and data_idx=0 of preds_{side} in '
            f'loss_forward_mappings.{LOSS_NAME}. A head without global '
            'average pooling before its one Linear has no class maps: distil '
            'its logits, such as with KDLoss.'
        )
    dtype = torch.promote_types(maps.dtype, torch.float32)
    with torch.autocast(maps.device.type, enabled=False):
        maps = maps.to(dtype)
        if size is not None:
            maps = F.adaptive_avg_pool2d(maps, size)
        bias = classifier.bias
        # A convolution keeps the layout of maps and their gradient.
        return F.conv2d(
            maps,
            classifier.weight.to(dtype)[:, :, None, None],
            None if bias is None else bias.to(dtype),
        )
