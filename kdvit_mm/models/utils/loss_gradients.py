"""Gradients of an algorithm's losses, each loss apart from the others."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

#: Name of the sum of the student's own losses.
TASK = 'task'


def separate_losses(
    losses: Mapping[str, Any], distilled: Collection[str]
) -> dict[str, torch.Tensor]:
    """Takes the losses of a step apart.

    Args:
        losses (Mapping[str, Any]): What the algorithm's forward returned:
            tensors and lists of tensors by name.
        distilled (Collection[str]): Names of distill losses in it, such as
            ``distill.loss_kd``; others are left out.

    Returns:
        dict[str, torch.Tensor]: Each distill loss by its name, and the sum of
        the student's own as ``TASK``, scalars as mmengine sums them.
    """
    terms: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, loss in losses.items():
        if name in distilled or (
            name.startswith('student.') and 'loss' in name
        ):
            values = [loss] if isinstance(loss, torch.Tensor) else loss
            terms[name if name in distilled else TASK] += [
                value.float().mean() for value in values
            ]
    return {name: torch.stack(values).sum() for name, values in terms.items()}


def gradients_of(
    loss: torch.Tensor, places: Sequence[torch.Tensor], loss_scaler: Any
) -> list[torch.Tensor | None]:
    """Takes the gradient of one loss from the graph of a step.

    The step's own backward is still to come, and is not changed.

    Args:
        loss (torch.Tensor): The loss, a scalar.
        places (Sequence[torch.Tensor]): Where the gradient is taken:
            parameters or features that require gradients.
        loss_scaler (Any): The ``GradScaler`` of the optimiser's wrapper, by
            whose scale the gradients are too large, or None.

    Returns:
        list[torch.Tensor | None]: The gradient at each place; None where the
        loss does not depend on it.
    """
    if not (loss.requires_grad and places):
        return [None] * len(places)
    # Float16 gradients vanish without the scale that training has.
    scaled = loss if loss_scaler is None else loss_scaler.scale(loss)
    with torch.autocast(loss.device.type, enabled=False):
        return [
            *torch.autograd.grad(
                scaled, places, retain_graph=True, allow_unused=True
            )
        ]


def length_of(gradients: Sequence[torch.Tensor | None]) -> float:
    """Norm of a gradient at several places together; 0 without any."""
    norms = [g.float().norm() for g in gradients if g is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
