"""Normalised knowledge distillation."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import tempered
from kdvit_mm.models.losses.response.logit_loss import LabelledLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class NKDLoss(LabelledLoss):
    r"""Distils the true class as it is and the others normalised to sum 1.

    .. math:: L = -\frac{1}{N} \sum_n \Big(p_{T,y} \log p_{S,y}
        + \gamma \tau^2 \sum_{c \neq y} \hat p_{T,c}^\tau
        \log \hat p_{S,c}^\tau\Big),

    where y is the true class, p the softmax at temperature 1 and
    :math:`\hat p^\tau` the softmax at :math:`\tau` over the other classes
    alone.

    Yang et al., *From Knowledge Distillation to Self-Knowledge Distillation:
    A Unified Approach with Normalized Loss and Customized Soft Labels*,
    ICCV 2023, arXiv:2303.13005. Official code: https://github.com/yzd-v/cls_KD.
    Both terms are cross-entropies, so equal networks have not 0. It takes the
    likeliest class of soft labels for the true one; here they are refused,
    since a mixed image has two.

    Args:
        gamma (float): Weight of the other classes. Defaults to 1.0.
        tau (float): Temperature of the other classes. Defaults to 1.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    def __init__(
        self, gamma: float = 1.0, tau: float = 1.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.gamma = gamma
        self.tau = tau

    def row_losses(  # type: ignore[override]
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Computes the loss of each row, a tensor of shape (N,)."""
        true_t = teacher.softmax(1).gather(1, labels[:, None]).squeeze(1)
        true = true_t * F.cross_entropy(student, labels, reduction='none')
        others_s, others_t = (
            tempered(x, self.tau)
            .scatter(1, labels[:, None], -torch.inf)
            .log_softmax(1)
            for x in (student, teacher)
        )
        # The true class is 0 times -inf, which is NaN.
        others = (others_t.exp() * others_s).scatter(1, labels[:, None], 0)
        return true - self.gamma * self.tau**2 * others.sum(1)
