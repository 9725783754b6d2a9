"""Hinton's knowledge distillation."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import tempered
from kdvit_mm.models.losses.response.logit_loss import (
    LogitLoss,
    soft_divergence,
)
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class KDLoss(LogitLoss):
    r"""Distils the softened probabilities of the teacher.

    .. math:: L = \frac{\tau^2}{N} \sum_n KL\big(\mathrm{softmax}(z_T / \tau)
        \,\|\, \mathrm{softmax}(z_S / \tau)\big),

    where n runs over the images of logits (N, C), and over all pixels of all
    images of class maps (N, C, H, W). For heads of sigmoids, each class is a
    distribution of its own, of being there or not, and the divergences of all
    classes are summed.

    Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015,
    arXiv:1503.02531. It has no official code; equal to ``KD`` of
    https://github.com/megvii-research/mdistiller and, on maps, to
    ``CriterionKD`` of https://github.com/winycg/CIRKD. mmrazor's
    ``KLDivergence`` divides maps by N alone, so that its loss is H · W times
    as large. Needs no labels: Mixup and CutMix may stay.

    Args:
        tau (float): Temperature, by which logits are divided. Defaults to
            1.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.
        use_sigmoid (bool): Whether the probabilities are sigmoids, as of
            detection heads without a background class, instead of a softmax.
            One class is enough then. Defaults to False.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    takes_dims = (2, 4)

    def __init__(
        self,
        tau: float = 1.0,
        loss_weight: float = 1.0,
        use_sigmoid: bool = False,
    ) -> None:
        super().__init__(loss_weight)
        self.tau = tau
        self.use_sigmoid = use_sigmoid
        if use_sigmoid:
            self.min_classes = 1

    def row_losses(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes the loss of each row, or of each pixel."""
        if not self.use_sigmoid:
            return soft_divergence(student, teacher, self.tau)
        student = tempered(student, self.tau)
        teacher = tempered(teacher, self.tau)
        cross_entropy, entropy = (
            F.binary_cross_entropy_with_logits(
                logits, teacher.sigmoid(), reduction='none'
            )
            for logits in (student, teacher)
        )
        return self.tau**2 * (cross_entropy - entropy).sum(1)
