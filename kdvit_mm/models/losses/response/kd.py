"""Hinton's knowledge distillation."""

import torch

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
    images of class maps (N, C, H, W).

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

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    takes_dims = (2, 4)

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = tau

    def row_losses(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes the loss of each row, or of each pixel."""
        return soft_divergence(student, teacher, self.tau)
