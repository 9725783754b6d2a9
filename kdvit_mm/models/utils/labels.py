"""The class that each row of a batch's logits belongs to."""

from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement

from kdvit_mm.models.utils.explain import LOSS_NAME, describe


def class_of_rows(
    given: Sequence[BaseDataElement] | torch.Tensor | None,
    logits: torch.Tensor,
    loss_name: str,
) -> torch.Tensor:
    """Reads one class per row of logits, and says what is wrong with labels.

    Args:
        given (Sequence[BaseDataElement] | torch.Tensor | None): The samples,
            with a ``gt_label`` each, or an integer tensor of shape (N,).
        logits (torch.Tensor): Logits of shape (N, C).
        loss_name (str): Class of the loss that needs the labels, for
            messages.

    Returns:
        torch.Tensor: The classes with shape (N,), on the logits' device.

    Raises:
        ValueError: If the labels are missing, soft, other than N or outside
            [0, C).
    """
    if given is None:
        raise ValueError(
            f'{loss_name} needs the class of each row. Add data_samples='
            "dict(from_student=True, recorder='samples', data_idx=1) to "
            f'loss_forward_mappings.{LOSS_NAME}, with student_recorders='
            "dict(samples=dict(type='ModuleInputs', source='')); or "
            'gt_labels, for labels that are recorded as a tensor.'
        )
    if isinstance(given, torch.Tensor):
        labels = given
    elif all(
        'gt_label' in sample and 'gt_score' not in sample for sample in given
    ):
        # Without an entry, as with an empty batch, cat would fail.
        labels = torch.cat(
            [sample.gt_label for sample in given]
            or [logits.new_empty(0, dtype=torch.long)]
        )
    else:
        raise ValueError(
            f'{loss_name}: data_samples must have a gt_label and no gt_score. '
            'Detection: map gt_labels to the classes of the proposals. Soft '
            'labels: remove Mixup or CutMix, and to_onehot, since a row needs '
            'one class; or take KDLoss, DISTLoss or LogitStandardise around '
            'one of them, which need no labels.'
        )
    rows, classes = logits.shape
    if labels.shape != (rows,) or labels.is_floating_point():
        raise ValueError(
            f'{loss_name}: labels of shape {describe(labels)} and dtype '
            f'{labels.dtype} do not fit logits of shape {describe(logits)}. '
            'It takes one integer class per row, shape (N,).'
        )
    if rows and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f'{loss_name}: labels from {labels.min()} to {labels.max()} are '
            f'not in [0, {classes}), the classes of logits of shape '
            f'{describe(logits)}. Logits without a background class cannot '
            'be distilled with background labels.'
        )
    return labels.to(logits.device, torch.long)
