"""The contract of all distill losses."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.models.utils.explain import (
    LOSS_NAME,
    connector_line,
    describe,
)


class DistillLoss(nn.Module):
    """Base of all distill losses, which are summed over pyramid levels.

    A subclass computes one level in :meth:`level_loss`, or all of them in
    :meth:`level_losses` where ground truth or a level's index matters. Both
    get tensors of one shape (of equal leading dimensions, where a subclass
    sets ``equal_dims``) in at least float32, the teacher's without gradient,
    and run with autocast off.

    Args:
        loss_weight (float): Weight of the loss, beside the weights that the
            paper gives its parts. Defaults to 1.0.

    Raises:
        ValueError: If ``loss_weight`` is not a finite number of at least 0, or
            ``tau``, where there is one, is not above 0.
    """

    #: Numbers of dimensions that the loss takes; empty for any.
    takes_dims: tuple[int, ...] = ()
    #: Whether this object computes all levels of a pyramid together.
    takes_pyramid = False
    #: Whether it takes one level only, having a state that is of one.
    takes_one_level = False
    #: Whether it compares class scores, which no connector can map.
    compares_classes = False
    #: Which side's maps are resized (bilinear) where height and width differ,
    #: ``'student'`` or ``'teacher'``; None raises an error.
    resized_side: str | None = None
    #: How many leading dimensions of both sides must be equal; None for all.
    equal_dims: int | None = None
    #: Whether heights and widths must be equal where channels need not.
    equal_sizes = False
    #: How many images a batch needs, where a loss compares them.
    min_images = 1
    #: Whether a forward is a decision of the training step, whose gradients it
    #: measures: it has no place elsewhere, nor other measurements beside it.
    decides = False
    #: New names of keys, by their names in earlier versions.
    renamed_keys: dict[str, str] = {}

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def __setattr__(self, name: str, value: Any) -> None:
        """Checks weight and temperature, which hooks may set, too."""
        if name in ('loss_weight', 'tau'):
            is_finite = isinstance(value, (int, float)) and math.isfinite(
                value
            )
            if name == 'loss_weight' and not (is_finite and value >= 0):
                raise ValueError(
                    f'{type(self).__name__}: loss_weight is a finite number '
                    f'of at least 0, got {value!r}.'
                )
            if name == 'tau' and not (is_finite and value > 0):
                raise ValueError(
                    f'{type(self).__name__}: tau is a temperature above 0, '
                    f'got {value!r}.'
                )
        super().__setattr__(name, value)

    def forward(
        self, preds_S: Any, preds_T: Any, data_samples: Any = None
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor | Sequence[torch.Tensor]): The student's
                tensor, or one tensor per level.
            preds_T (torch.Tensor | Sequence[torch.Tensor]): The teacher's.
            data_samples (Sequence[BaseDataElement] | None): The batch's
                samples, for losses that need ground truth. Defaults to None.

        Returns:
            torch.Tensor: The weighted sum over the levels, a scalar in
            float32, or float64 for float64 input; 0 for empty input.

        Raises:
            ValueError: If the numbers of levels, or the shapes on a level,
                do not fit; names both and suggests a fix.
        """
        students, teachers = self.pairs(preds_S, preds_T)
        with torch.autocast(students[0].device.type, enabled=False):
            # A mean over nothing is NaN; RoI features may have no row.
            if all(student.numel() for student in students):
                losses = self.level_losses(students, teachers, data_samples)
            else:
                losses = [student.sum() * 0 for student in students]
            return self.loss_weight * torch.stack(losses).sum()

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Any,
    ) -> list[torch.Tensor]:
        """Computes all levels, without ``loss_weight``, a scalar per level."""
        return [
            self.level_loss(student, teacher)
            for student, teacher in zip(students, teachers, strict=True)
        ]

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level, without ``loss_weight``, as a scalar."""
        raise NotImplementedError(
            f'{type(self).__name__} must define level_loss or level_losses.'
        )

    def suggest_fix(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        """Says what makes the two shapes equal."""
        line = connector_line(LOSS_NAME, student, teacher)
        if line:
            return f'Map the channels with a connector: {line}.'
        return (
            'Record both where they have one shape: the same level by '
            'data_idx in loss_forward_mappings, or another module.'
        )

    def pairs(
        self,
        preds_S: torch.Tensor | Sequence[torch.Tensor],
        preds_T: torch.Tensor | Sequence[torch.Tensor],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Checks the levels of both sides and makes them comparable.

        Args:
            preds_S (torch.Tensor | Sequence[torch.Tensor]): The student's.
            preds_T (torch.Tensor | Sequence[torch.Tensor]): The teacher's.

        Returns:
            tuple[list[torch.Tensor], list[torch.Tensor]]: The levels of both,
            in at least float32, of shapes that fit per level, the teacher's
            detached.

        Raises:
            ValueError: If they do not fit; names both and suggests a fix.
        """
        students, teachers = as_levels(preds_S), as_levels(preds_T)
        if not students or len(students) != len(teachers):
            raise ValueError(
                f'{type(self).__name__}: preds_S has {len(students)} levels '
                f'and preds_T has {len(teachers)}, {describe(students)} and '
                f'{describe(teachers)}. Record as many of both: set data_idx '
                'of both in loss_forward_mappings, or of neither.'
            )
        if self.takes_one_level and len(students) > 1:
            raise ValueError(
                f'{type(self).__name__} takes one level, but preds_S is '
                f'{describe(students)}. Set data_idx of preds_S and preds_T '
                f'in loss_forward_mappings.{LOSS_NAME}.'
            )
        for name, levels in (('preds_S', students), ('preds_T', teachers)):
            self._check_levels(name, levels)
        pairs = [
            self._pair(student, teacher)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

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

    def _pair(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        student, teacher = in_full_precision(student, teacher)
        # Different channels are reported before anything is resized.
        if (
            student.shape[:2] == teacher.shape[:2]
            and student.shape[2:] != teacher.shape[2:]
        ):
            if self.resized_side == 'student':
                student = _resize(student, teacher)
            elif self.resized_side == 'teacher':
                teacher = _resize(teacher, student)
        dims = self.equal_dims
        if student.shape[:dims] != teacher.shape[:dims]:
            raise ValueError(
                f'{type(self).__name__}: preds_S has the shape '
                f'{describe(student)} and preds_T {describe(teacher)}. '
                + (
                    self.suggest_fix(student, teacher)
                    if student.shape[:1] == teacher.shape[:1]
                    else 'Record both for the same images, or proposals.'
                )
            )
        if self.equal_sizes and student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f'{type(self).__name__}: preds_S has the shape '
                f'{describe(student)} and preds_T {describe(teacher)}, but '
                'heights and widths must be equal. Record both where the '
                'stride is the same, such as source="decode_head.dropout" of '
                'two heads behind backbones of one output stride.'
            )
        if 0 < len(student) < self.min_images:
            raise ValueError(
                f'{type(self).__name__} compares the images of a batch with '
                f'each other, but preds_S has the shape {describe(student)}. '
                'Set train_dataloader.batch_size to more than one, and '
                'train_dataloader.drop_last=True against a last batch of one.'
            )
        return student, teacher


def as_levels(preds: torch.Tensor | Sequence) -> Sequence:
    """Levels of a record: the sequence that it is, or itself as the only."""
    return preds if isinstance(preds, (list, tuple)) else [preds]


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


def tempered(logits: torch.Tensor, tau: float) -> torch.Tensor:
    """Divides by the temperature, without a pass over the memory at 1."""
    return logits if tau == 1 else logits / tau


def _resize(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(
        maps, like.shape[2:], mode='bilinear', align_corners=False
    )
