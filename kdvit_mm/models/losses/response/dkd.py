"""Decoupled knowledge distillation."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement

from kdvit_mm.models.losses.base import DistillLoss, as_levels, tempered
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.labels import class_of_rows
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DKDLoss(DistillLoss):
    r"""Distils the true class and the other classes with a weight each.

    .. math:: L = \frac{\tau^2}{N} \sum_n \big(\alpha\, KL(b_T \| b_S)
        + \beta\, KL(\hat p_T \| \hat p_S)\big),

    where b is the pair (probability of the true class, of all others) and
    :math:`\hat p` the softmax over the other classes alone.

    Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022,
    arXiv:2203.08679. Official code:
    https://github.com/megvii-research/mdistiller. It takes the logarithm of
    summed probabilities and hides the true class by subtracting 1000; here
    both are exact, so confident or large logits stay finite. The warm-up of
    the weight is left to :class:`~kdvit_mm.engine.hooks.DistillScheduleHook`.

    For detection, rows are the proposals that both RoI heads classify, of
    shape (number of RoIs, classes + 1), with their assigned classes as
    ``gt_labels``; the background is a class like the others.

    Args:
        alpha (float): Weight of the true class. Defaults to 1.0.
        beta (float): Weight of the other classes. Defaults to 1.0.
        tau (float): Temperature, by which logits are divided. Defaults to
            1.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        tau: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.alpha = alpha
        self.beta = beta
        self.tau = tau

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
        for student, teacher in zip(
            as_levels(preds_S), as_levels(preds_T), strict=False
        ):
            _check_logits(student, teacher)
        return super().forward(preds_S, preds_T, given)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Computes the loss of logits of shape (N, C)."""
        return [
            self._logits_loss(
                student,
                teacher,
                class_of_rows(data_samples, student, 'DKDLoss')[:, None],
            )
            for student, teacher in zip(students, teachers, strict=True)
        ]

    def _logits_loss(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        margin_s, others_s = self._decouple(student, labels)
        margin_t, others_t = self._decouple(teacher, labels)
        tckd = _binary_kl(margin_t, margin_s)
        nckd = others_t.exp() * (others_t - others_s)
        # The true class is -inf in both; their difference is NaN.
        nckd = nckd.scatter(1, labels, 0).sum(1)
        loss = (self.alpha * tckd.squeeze(1) + self.beta * nckd).mean()
        return self.tau**2 * loss

    def _decouple(
        self, logits: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log odds of the true class and log-softmax of the others.

        The sigmoid of the first is the probability of the true class, also
        where one minus it would underflow.
        """
        logits = tempered(logits, self.tau)
        others = logits.scatter(1, labels, -torch.inf)
        margin = logits.gather(1, labels) - others.logsumexp(1, keepdim=True)
        return margin, others.log_softmax(1)


def _check_logits(student: torch.Tensor, teacher: torch.Tensor) -> None:
    if not (
        isinstance(student, torch.Tensor)
        and isinstance(teacher, torch.Tensor)
        and student.shape == teacher.shape
        and student.dim() == 2
        and student.size(1) >= 2
    ):
        raise ValueError(
            'DKDLoss takes logits of one shape (N, C) with two classes or '
            f'more, got preds_S {describe(student)} and preds_T '
            f'{describe(teacher)}. Record the classifiers of both networks, '
            'such as head.fc, with the same classes and, in detection, on '
            'the same proposals.'
        )


def _binary_kl(margin_t: torch.Tensor, margin_s: torch.Tensor) -> torch.Tensor:
    """KL divergence of two Bernoulli distributions given by log odds."""
    true, others = (
        (sign * margin_t).sigmoid()
        * (F.logsigmoid(sign * margin_t) - F.logsigmoid(sign * margin_s))
        for sign in (1, -1)
    )
    return true + others
