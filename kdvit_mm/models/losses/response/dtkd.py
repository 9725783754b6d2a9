"""Dynamic temperature knowledge distillation."""

import torch

from kdvit_mm.models.losses.response.logit_loss import (
    LogitLoss,
    soft_divergence,
)
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DTKDLoss(LogitLoss):
    r"""Divides a temperature between student and teacher by sharpness.

    With m the largest logit of a sample,

    .. math:: \tau_S = \frac{2 \tau m_S}{m_S + m_T},\quad
        \tau_T = \frac{2 \tau m_T}{m_S + m_T},\quad
        L = \frac{1}{N} \sum_n \big(\alpha\, \tau_S \tau_T\,
        KL(p_T^{\tau_T} \| p_S^{\tau_S})
        + \beta\, \tau^2 KL(p_T^\tau \| p_S^\tau)\big).

    Wei & Bai, *Dynamic Temperature Knowledge Distillation*, 2024,
    arXiv:2404.12711. Official code: https://github.com/JinYu1998/DTKD, whose
    warm-up of the weight is left to
    :class:`~kdvit_mm.engine.hooks.DistillScheduleHook`. Gradients flow
    through the student's m, as there. A sample of which a network gives no
    class a logit above 0 would get temperatures below 0 or without bound; its
    :math:`\tau_S` and :math:`\tau_T` are :math:`\tau`.

    Args:
        alpha (float): Weight of the term with dynamic temperatures. Defaults
            to 1.0.
        beta (float): Weight of the term at ``tau``. Defaults to 1.0.
        tau (float): Temperature that is shared out. Defaults to 1.0.
        loss_weight (float): Weight of both. Defaults to 1.0.

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

    def row_losses(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes the loss of each row, a tensor of shape (N,)."""
        max_s, max_t = (x.amax(1, keepdim=True) for x in (student, teacher))
        # Replaced before the division, whose gradient would be NaN.
        shared = (max_s > 0) & (max_t > 0)
        max_s, max_t = (torch.where(shared, x, 1) for x in (max_s, max_t))
        tau_s = 2 * self.tau * max_s / (max_s + max_t)
        tau_t = 2 * self.tau * max_t / (max_s + max_t)
        dynamic = soft_divergence(student / tau_s, teacher / tau_t)
        dynamic = (tau_s * tau_t).squeeze(1) * dynamic
        fixed = soft_divergence(student, teacher, self.tau)
        return self.alpha * dynamic + self.beta * fixed
