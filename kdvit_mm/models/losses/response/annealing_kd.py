"""Annealing knowledge distillation, first stage."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.response.logit_loss import LogitLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class AnnealingKDLoss(LogitLoss):
    r"""Regresses the teacher's logits, which grow while training goes on.

    .. math:: L = \frac{1}{N C} \sum_{n, c} \Big(z_S
        - \frac{\tau}{\tau_{max}}\, z_T\Big)^2

    It is the first of two stages and takes the place of the task's loss; the
    second goes on without a teacher, from the first one's best checkpoint.

    Jafari et al., *Annealing Knowledge Distillation*, EACL 2021,
    arXiv:2104.07163. The official trainer lets :math:`\tau` grow from 1 to
    :math:`\tau_{max}` in equal stairs; the paper counts backwards, its
    :math:`\Phi(T) = 1 - (T - 1) / \tau_{max}` being the same ramp. The loss
    keeps ``tau``; :class:`~kdvit_mm.engine.hooks.DistillScheduleHook` makes
    the stairs, here 10 of 20 epochs each::

        schedules=[
            dict(loss='loss_annealing', key='tau', type='constant',
                 factor=t, begin=20 * (t - 1), end=20 * t)
            for t in range(2, 11)
        ]

    Args:
        max_tau (float): :math:`\tau_{max}`, at which the target is the
            teacher's logits. Defaults to 10.0.
        tau (float): :math:`\tau`, from which a schedule starts. Defaults to
            1.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    # A regression, whose single output may be distilled too.
    min_classes = 1

    def __init__(
        self, max_tau: float = 10.0, tau: float = 1.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.max_tau = max_tau
        self.tau = tau

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes the loss of logits of shape (N, C).

        Raises:
            ValueError: If ``tau`` is above ``max_tau``.
        """
        if self.tau > self.max_tau:
            raise ValueError(
                f'AnnealingKDLoss: tau={self.tau} is above '
                f'max_tau={self.max_tau}, so that the target would be larger '
                'than the logits of the teacher. Lower tau, or the factors '
                'of its schedule in DistillScheduleHook.'
            )
        return F.mse_loss(student, self.tau / self.max_tau * teacher)
