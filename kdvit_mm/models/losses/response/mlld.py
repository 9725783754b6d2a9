"""Multi-level logit distillation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement

from kdvit_mm.models.losses.response.logit_loss import (
    LogitLoss,
    soft_divergence,
)
from kdvit_mm.models.utils.explain import LOSS_NAME, describe
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class MLLDLoss(LogitLoss):
    r"""Distils single predictions, and their relations in batch and class.

    The batch has two views of each image, a weakly and a strongly augmented
    one. With P the N × C matrix of predictions of the weak views at a
    temperature t, each of :math:`T = \{\tau, 3, 5, 2, 6\}` adds

    .. math::
        L_{ins} &= \rho\, K_t(weak) + K_t(strong), \\
        L_{batch} &= \frac{\rho}{N}\, \lVert P_S P_S^\top
            - P_T P_T^\top \rVert_F^2, \\
        L_{class} &= \frac{\rho_c}{C}\, \lVert P_S^\top P_S
            - P_T^\top P_T \rVert_F^2,

    K being the loss of :class:`KDLoss`. :math:`\rho` is the share of images
    on which the teacher is not surer than on the median one, :math:`\rho_c`
    the share of classes to which it gives no more than to the median one.

    Jin et al., *Multi-Level Logit Distillation*, CVPR 2023. Official code:
    https://github.com/Jin-Ying/Multi-Level-Logit-Distillation
    (``KD_ours.py``), whose published results this loss keeps to: it scales
    the mean by a share instead of choosing images or classes, and at 2 and 6
    takes the weak views for the strong ones. It passes the two views through
    the networks one after the other, here they are one batch, whose batch
    norms see both.

    Needs :class:`~kdvit_mm.models.TwoViewDataPreprocessor`. As it doubles the
    rows, the task's loss is the mean over both views, where the official code
    adds them.

    Args:
        tau (float): First of the five temperatures. Defaults to 4.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    #: Applied to the logits of the instance level, by LogitStandardise.
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __init__(self, tau: float = 4.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = tau

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's logits of both views, shape
                (2N, C).
            preds_T (torch.Tensor): The teacher's, shape (2N, C).
            data_samples (Sequence[DataSample] | None): The 2N samples, each
                with the ``view`` that ``TwoViewDataPreprocessor`` gave it.
                Defaults to None, which is an error.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 logits.

        Raises:
            ValueError: If the logits' shapes differ, or rows are not of a
                weak and a strong view; says what to configure.
        """
        return super().forward(preds_S, preds_T, data_samples)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[Any] | None,
    ) -> list[torch.Tensor]:
        """Computes the loss of logits of shape (2N, C)."""
        losses = []
        for student, teacher in zip(students, teachers, strict=True):
            strong = _strong_rows(data_samples, student)
            losses.append(
                self._views_loss(
                    (student[~strong], teacher[~strong]),
                    (student[strong], teacher[strong]),
                )
            )
        return losses

    def _views_loss(
        self,
        weak: tuple[torch.Tensor, torch.Tensor],
        strong: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        predicted = weak[1].softmax(1)
        unsure = _share_up_to_median(predicted.amax(1))
        rare = _share_up_to_median(predicted.sum(0))
        terms = []
        for tau in (self.tau, 3.0, 5.0, 2.0, 6.0):
            instance = self._instance_loss(*weak, tau)
            # As released: at the last two the weak view, once more.
            again = (
                instance
                if tau in (2.0, 6.0)
                else self._instance_loss(*strong, tau)
            )
            probs = [(logits / tau).softmax(1) for logits in weak]
            terms += [
                unsure * instance + again,
                unsure * _batch_loss(*probs),
                rare * _class_loss(*probs),
            ]
        return torch.stack(terms).sum()

    def _instance_loss(
        self, student: torch.Tensor, teacher: torch.Tensor, tau: float
    ) -> torch.Tensor:
        if self.prepare is not None:
            student, teacher = self.prepare(student), self.prepare(teacher)
        return soft_divergence(student, teacher, tau).mean()


def _batch_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compares what images have in common, by probabilities (N, C)."""
    difference = student @ student.mT - teacher @ teacher.mT
    return difference.square().sum() / len(student)


def _class_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compares what classes have in common, by probabilities (N, C)."""
    return _batch_loss(student.mT, teacher.mT)


def _share_up_to_median(values: torch.Tensor) -> torch.Tensor:
    return (values <= values.quantile(0.5)).to(values.dtype).mean()


def _strong_rows(
    samples: Sequence[Any] | None, logits: torch.Tensor
) -> torch.Tensor:
    """Which rows are of strong views, booleans of shape (2N,)."""
    views = [
        sample.get('view') if isinstance(sample, BaseDataElement) else None
        for sample in (() if samples is None else samples)
    ]
    if len(views) != len(logits) or set(views) != {'weak', 'strong'}:
        raise ValueError(
            'MLLDLoss needs a weak and a strong view of each image, got '
            f'logits of shape {describe(logits)} and {len(views)} samples of '
            f'view {sorted({str(view) for view in views})}. Set '
            "architecture.data_preprocessor.type='kdvit_mm.TwoView"
            "DataPreprocessor', put dict(type='MultiView', num_views=[1, 1], "
            'transforms=[WEAK, STRONG]) before PackInputs in the training '
            "pipeline, student_recorders=dict(samples=dict(type='Module"
            "Inputs', source='')), and data_samples=dict(from_student=True, "
            f"recorder='samples', data_idx=1) in loss_forward_mappings."
            f'{LOSS_NAME}.'
        )
    strong = [view == 'strong' for view in views]
    return torch.tensor(strong, device=logits.device)
