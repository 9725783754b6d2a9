"""Masked generative distillation; its generator is a connector."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class MGDLoss(DistillLoss):
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
        alpha_mgd (float): The paper's weight of the distance.
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    def __init__(self, alpha_mgd: float, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.alpha_mgd = alpha_mgd

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from maps of shape (N, C, H, W)."""
        distance = F.mse_loss(student, teacher, reduction='sum')
        return self.alpha_mgd * distance / len(student)
