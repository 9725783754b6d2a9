"""The contract of losses that compare logits, class by class."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement

from kdvit_mm.models.losses.base import DistillLoss, tempered
from kdvit_mm.models.utils.explain import SAME_CLASSES, describe
from kdvit_mm.models.utils.labels import class_of_rows


class LogitLoss(DistillLoss):
    """Base of losses on logits of shape (N, C), averaged over the rows.

    A subclass computes :meth:`row_losses`, or one level in
    :meth:`level_loss` where rows depend on each other.
    """

    takes_dims: tuple[int, ...] = (2,)
    compares_classes = True
    #: Fewest classes among which there is something to learn, and why.
    min_classes = 2
    too_few = 'the softmax of one is always 1'

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes the mean over the rows of one level."""
        return self.row_losses(student, teacher).mean()

    def row_losses(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes the loss of each row, a tensor of shape (N,)."""
        raise NotImplementedError(
            f'{type(self).__name__} must define row_losses or level_loss.'
        )

    def suggest_fix(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        """Says what makes the two shapes equal."""
        if student.shape[1:2] != teacher.shape[1:2]:
            return f'Their classes differ. {SAME_CLASSES}'
        return super().suggest_fix(student, teacher)

    def _pair(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        student, teacher = super()._pair(student, teacher)
        if student.size(1) < self.min_classes:
            raise ValueError(
                f'{type(self).__name__} takes logits of {self.min_classes} '
                f'classes or more, got {describe(student)}: {self.too_few}. '
                'Distil features instead.'
            )
        return student, teacher


class LabelledLoss(LogitLoss):
    """Base of losses on logits that need the class of each row.

    A subclass computes :meth:`row_losses` with the classes as third argument.
    """

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None = None,
        gt_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's logits, shape (N, C).
            preds_T (torch.Tensor): The teacher's logits, shape (N, C).
            data_samples (Sequence[BaseDataElement] | torch.Tensor | None):
                The batch's samples with a ``gt_label`` each, or a tensor of
                their labels. Defaults to None.
            gt_labels (torch.Tensor | None): Read in their absence: class of
                each row, an integer tensor of shape (N,). Defaults to None.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 logits;
            0 for no rows.

        Raises:
            ValueError: If the logits' shapes differ or are not (N, C) with
                two classes or more; or if the labels are missing, soft,
                other than N, or outside [0, C).
        """
        given = gt_labels if data_samples is None else data_samples
        return super().forward(preds_S, preds_T, given)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Computes the mean over the rows of each level."""
        return [
            self.row_losses(
                student,
                teacher,
                class_of_rows(data_samples, student, type(self).__name__),
            ).mean()
            for student, teacher in zip(students, teachers, strict=True)
        ]

    def row_losses(  # type: ignore[override]
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Computes the loss of each row, a tensor of shape (N,)."""
        raise NotImplementedError(
            f'{type(self).__name__} must define row_losses.'
        )


def soft_divergence(
    student: torch.Tensor, teacher: torch.Tensor, tau: float = 1.0
) -> torch.Tensor:
    r"""Computes :math:`\tau^2 KL(T \| S)` of the softmax over dimension 1.

    Args:
        student (torch.Tensor): The student's logits, shape (N, C, ...).
        teacher (torch.Tensor): The teacher's logits of the same shape.
        tau (float): Temperature, by which logits are divided. Defaults to
            1.0.

    Returns:
        torch.Tensor: The divergences with shape (N, ...).
    """
    log_s = tempered(student, tau).log_softmax(1)
    log_t = tempered(teacher, tau).log_softmax(1)
    return tau**2 * (log_t.exp() * (log_t - log_s)).sum(1)
