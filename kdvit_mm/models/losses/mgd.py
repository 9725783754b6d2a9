"""Masked generative distillation; its generator is a connector."""

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.models.utils.feature_pairs import check_pair, in_full_precision
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class MGDLoss(nn.Module):
    """Squared distance of the generated map from the teacher's.

    Zhendong Yang, Zhe Li, Mingqi Shao, Dachuan Shi, Zehuan Yuan, Chun Yuan:
    Masked Generative Distillation. ECCV 2022, arXiv:2205.01529. Official
    code: https://github.com/yzd-v/MGD.

    The loss is alpha_mgd / N · Σ (G − F_T)², G what the connector
    :class:`~kdvit_mm.models.connectors.mgd.MGDGenerator` makes of the
    student's map. The segmentation paper setting adds a CWD term on the
    logits (temperature 4, weight 3), configured beside this one. mmrazor has
    a class of the same name: write ``type='kdvit_mm.MGDLoss'``.

    The paper's alpha_mgd: 2e-5 for one-stage detectors, SOLO and
    segmentation, 5e-7 for two-stage detectors, 7e-5 for classification.

    Args:
        alpha_mgd (float): Weight of the loss.
    """

    def __init__(self, alpha_mgd: float) -> None:
        super().__init__()
        self.alpha_mgd = alpha_mgd

    def forward(
        self, preds_S: torch.Tensor, preds_T: torch.Tensor
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The generated map, of shape (N, C, H, W).
            preds_T (torch.Tensor): The teacher's map, of the same shape; it
                gets no gradient.

        Returns:
            torch.Tensor: The loss, a scalar.

        Raises:
            ValueError: If the shapes differ.
        """
        check_pair('MGDLoss', preds_S, preds_T)
        with torch.autocast(preds_S.device.type, enabled=False):
            student, teacher = in_full_precision(preds_S, preds_T)
            distance = F.mse_loss(student, teacher, reduction='sum')
            return self.alpha_mgd * distance / len(student)
