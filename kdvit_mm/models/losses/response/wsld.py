"""Weighted soft labels."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import tempered
from kdvit_mm.models.losses.response.logit_loss import LabelledLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class WSLDLoss(LabelledLoss):
    r"""Weights each sample by the student's loss over the teacher's.

    .. math:: L = -\frac{\tau^2}{N} \sum_n w_n \sum_c p_{T,c}^\tau
        \log p_{S,c}^\tau, \quad
        w = 1 - \exp\Big(-\frac{H_S}{H_T + 10^{-7}}\Big),

    with H the cross-entropy of a network's own prediction (at temperature 1)
    and the label; no gradient flows through w.

    Zhou et al., *Rethinking Soft Labels for Knowledge Distillation: A
    Bias-Variance Tradeoff Perspective*, ICLR 2021, arXiv:2102.00650. Official
    code: https://github.com/bellymonster/Weighted-Soft-Label-Distillation.
    Equal to its soft term, for any number of classes instead of 1000. It is a
    cross-entropy, so equal networks have not 0 but its minimum.

    Args:
        tau (float): Temperature of the soft labels. Defaults to 1.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = tau

    def row_losses(  # type: ignore[override]
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Computes the loss of each row, a tensor of shape (N,)."""
        hard_s = F.cross_entropy(student.detach(), labels, reduction='none')
        hard_t = F.cross_entropy(teacher, labels, reduction='none')
        weight = -torch.expm1(-hard_s / (hard_t + 1e-7))
        soft = F.cross_entropy(
            tempered(student, self.tau),
            tempered(teacher, self.tau).softmax(1),
            reduction='none',
        )
        return self.tau**2 * weight * soft
