"""Decoupled knowledge distillation."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import tempered
from kdvit_mm.models.losses.response.logit_loss import LabelledLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DKDLoss(LabelledLoss):
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

    def row_losses(  # type: ignore[override]
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Computes the loss of each row, a tensor of shape (N,)."""
        labels = labels[:, None]
        margin_s, others_s = self._decouple(student, labels)
        margin_t, others_t = self._decouple(teacher, labels)
        tckd = _binary_kl(margin_t, margin_s)
        nckd = others_t.exp() * (others_t - others_s)
        # The true class is -inf in both; their difference is NaN.
        nckd = nckd.scatter(1, labels, 0).sum(1)
        return self.tau**2 * (self.alpha * tckd.squeeze(1) + self.beta * nckd)

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


def _binary_kl(margin_t: torch.Tensor, margin_s: torch.Tensor) -> torch.Tensor:
    """KL divergence of two Bernoulli distributions given by log odds."""
    true, others = (
        (sign * margin_t).sigmoid()
        * (F.logsigmoid(sign * margin_t) - F.logsigmoid(sign * margin_s))
        for sign in (1, -1)
    )
    return true + others
