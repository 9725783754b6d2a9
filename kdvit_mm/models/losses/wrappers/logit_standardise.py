"""Logit standardisation around a loss on logits."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from mmengine.structures import BaseDataElement

from kdvit_mm.models.losses.response.logit_loss import LogitLoss
from kdvit_mm.models.losses.response.mlld import MLLDLoss
from kdvit_mm.registry import MODELS, SCOPE


@MODELS.register_module()
class LogitStandardise(LogitLoss):
    r"""Gives a loss the logits of both networks with mean 0 and deviation 1.

    .. math:: L = \ell\Big(\frac{z_S - \bar z_S}{\sigma(z_S) + 10^{-7}},
        \frac{z_T - \bar z_T}{\sigma(z_T) + 10^{-7}}\Big),

    mean and standard deviation (of n - 1) being those over the classes of a
    row, or of a pixel of class maps. The temperature is that of the loss
    :math:`\ell` and divides what is standardised.

    Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024,
    arXiv:2403.01427. Official code:
    https://github.com/sunshangquan/logit-standardization-KD. Of
    :class:`MLLDLoss` the instance level alone is standardised, as there. Its
    weight is the ``loss_weight`` of :math:`\ell`, or this one. Needs labels
    only if :math:`\ell` does. Two classes are refused: standardised they are
    always 0.71 and -0.71, from which nothing is learned.

    Args:
        loss (dict): Config of a loss on logits, such as
            ``dict(type='KDLoss', tau=2, loss_weight=9)``. A type without a
            scope is of this package.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``loss`` takes maps and classifiers.
    """

    takes_dims = (2, 4)
    min_classes = 3
    too_few = 'two have one distance, whatever they were, once standardised'

    def __init__(self, loss: dict, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.loss = MODELS.build({'_scope_': SCOPE, **loss})
        self.takes = signature(self.loss.forward).parameters.keys()
        if 'fc_S' in self.takes:
            raise ValueError(
                f'LogitStandardise: {type(self.loss).__name__} takes maps '
                'instead of logits. Set loss to a loss on logits, and put '
                'ScaleDecouple around LogitStandardise.'
            )
        if isinstance(self.loss, MLLDLoss):
            self.loss.prepare = standardise

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None = None,
        gt_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's logits, shape (N, C) or
                (N, C, H, W).
            preds_T (torch.Tensor): The teacher's logits of the same shape.
            data_samples (Sequence[BaseDataElement] | torch.Tensor | None):
                Handed on to a loss that takes them. Defaults to None.
            gt_labels (torch.Tensor | None): Handed on to a loss that takes
                them. Defaults to None.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 logits;
            0 for no rows.

        Raises:
            ValueError: If the logits' shapes differ, there is one class, or
                the loss refuses its input.
        """
        given = {'data_samples': data_samples, 'gt_labels': gt_labels}
        taken = {k: v for k, v in given.items() if k in self.takes}
        return super().forward(preds_S, preds_T, taken)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: dict[str, Any],
    ) -> list[torch.Tensor]:
        """Computes the loss of each level."""
        if not isinstance(self.loss, MLLDLoss):
            students = [standardise(student) for student in students]
            teachers = [standardise(teacher) for teacher in teachers]
        return [
            self.loss(student, teacher, **data_samples)
            for student, teacher in zip(students, teachers, strict=True)
        ]


def standardise(logits: torch.Tensor) -> torch.Tensor:
    """Gives each row mean 0 and standard deviation 1 over the classes.

    Args:
        logits (torch.Tensor): Logits of shape (N, C, ...).

    Returns:
        torch.Tensor: The z-scores, of the same shape; 0 where a row's logits
        are all equal.
    """
    std, mean = torch.std_mean(logits, dim=1, keepdim=True)
    return (logits - mean) / (std + 1e-7)
