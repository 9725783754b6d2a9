"""What the losses on feature maps have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.models.utils.explain import (
    LOSS_NAME,
    connector_line,
    describe,
)
from kdvit_mm.models.utils.feature_pairs import in_full_precision


class LevelLoss(nn.Module, ABC):
    """Base of the distill losses that are summed over pyramid levels.

    A subclass computes one level in :meth:`level_loss`. It gets two tensors of
    one shape in at least float32, the teacher's without gradient, and runs
    with autocast off.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.
        resize_student (bool | None): Whether the student's maps are resized
            (bilinear) to the teacher's height and width where these differ;
            False resizes the teacher's, None raises an error. Defaults to
            None.
    """

    #: Numbers of dimensions that the loss takes; empty for any.
    takes_dims: tuple[int, ...] = ()

    def __init__(
        self, loss_weight: float = 1.0, resize_student: bool | None = None
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.resize_student = resize_student

    def forward(
        self,
        preds_S: torch.Tensor | Sequence[torch.Tensor],
        preds_T: torch.Tensor | Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor | Sequence[torch.Tensor]): The student's
                tensor, or one tensor a level.
            preds_T (torch.Tensor | Sequence[torch.Tensor]): The teacher's.

        Returns:
            torch.Tensor: The weighted sum over the levels, a scalar in
            float32, or float64 for float64 input.

        Raises:
            ValueError: If the numbers of levels, or the shapes on a level,
                do not fit; names both and what would mend it.
        """
        students, teachers = _as_levels(preds_S), _as_levels(preds_T)
        if not students or len(students) != len(teachers):
            raise ValueError(
                f'{type(self).__name__}: preds_S has {len(students)} levels '
                f'and preds_T has {len(teachers)}, {describe(students)} and '
                f'{describe(teachers)}. Record as many of both: set data_idx '
                'of both in loss_forward_mappings, or of neither.'
            )
        for name, levels in (('preds_S', students), ('preds_T', teachers)):
            self._check_levels(name, levels)
        with torch.autocast(students[0].device.type, enabled=False):
            losses = [
                self._one_level(student, teacher)
                for student, teacher in zip(students, teachers, strict=True)
            ]
            return self.loss_weight * torch.stack(losses).sum()

    @abstractmethod
    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level, without the weight, as a scalar."""

    def mend(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        """Says what makes the two shapes equal."""
        line = connector_line(LOSS_NAME, student, teacher)
        if line:
            return f'Map the channels with a connector: {line}.'
        return 'Record both where they have one shape.'

    def _check_levels(self, name: str, levels: Sequence) -> None:
        for level in levels:
            if not isinstance(level, torch.Tensor):
                raise ValueError(
                    f'{type(self).__name__}: {name} holds '
                    f'{describe(level)} instead of a tensor. Set data_idx of '
                    f'{name} in loss_forward_mappings.'
                )
            if self.takes_dims and level.dim() not in self.takes_dims:
                dims = ' or '.join(f'{dim}-D' for dim in self.takes_dims)
                raise ValueError(
                    f'{type(self).__name__} takes {dims} tensors, but {name} '
                    f'has the shape {describe(level)}. Record another module.'
                )

    def _one_level(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        student, teacher = in_full_precision(student, teacher)
        # The channels are compared first: their mend comes before a resize.
        if (
            self.resize_student is not None
            and student.shape[:2] == teacher.shape[:2]
            and student.shape[2:] != teacher.shape[2:]
        ):
            if self.resize_student:
                student = _resize(student, teacher)
            else:
                teacher = _resize(teacher, student)
        if student.shape != teacher.shape:
            raise ValueError(
                f'{type(self).__name__}: preds_S has the shape '
                f'{describe(student)} and preds_T {describe(teacher)}. '
                + self.mend(student, teacher)
            )
        # A mean over nothing is NaN; RoI features may have no row.
        if not student.numel():
            return student.sum()
        return self.level_loss(student, teacher)


def tempered(logits: torch.Tensor, tau: float) -> torch.Tensor:
    """Divides by the temperature, without a pass over the memory at 1."""
    return logits if tau == 1 else logits / tau


def check_tau(tau: float) -> float:
    """Returns a temperature that one can divide by."""
    if not tau > 0:
        raise ValueError(f'tau is a temperature above 0, got {tau}.')
    return tau


def _as_levels(preds: torch.Tensor | Sequence) -> Sequence:
    return preds if isinstance(preds, (list, tuple)) else [preds]


def _resize(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(
        maps, like.shape[2:], mode='bilinear', align_corners=False
    )
