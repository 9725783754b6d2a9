"""Distillation by the Pearson correlation of feature maps."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class PKDLoss(DistillLoss):
    r"""Imitates the teacher's features up to scale and shift of a channel.

    Each channel is standardised over the batch and all positions,
    :math:`z = (F - \mu) / (\sigma + 10^{-6})` with the unbiased
    :math:`\sigma`, and :math:`L = \sum_l \frac12 \overline{(z_S - z_T)^2}`,
    which is about :math:`1 - r` of Pearson's correlation r.

    Cao et al., *PKD: General Distillation Framework for Object Detectors via
    Pearson Correlation Coefficient*, NeurIPS 2022, arXiv:2207.02039. The
    authors' code is mmrazor's ``PKDLoss``. Equal to it, except that maps
    which differ in width alone are resized too, where it raises an error, and
    that a single value per channel (one image, a 1×1 map), whose correlation
    is not defined, gives 0 in place of NaN. Statistics are those of a GPU's
    batch.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.
        resize_stu (bool): Whether the student's maps are resized (bilinear)
            to the teacher's height and width where these differ; the
            teacher's to the student's if False. Defaults to True.
    """

    takes_dims = (4,)

    def __init__(
        self, loss_weight: float = 1.0, resize_stu: bool = True
    ) -> None:
        super().__init__(loss_weight)
        self.resized_side = 'student' if resize_stu else 'teacher'

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from maps of shape (N, C, H, W)."""
        if student.numel() == student.size(1):
            return 0 * student.sum()
        return F.mse_loss(_standardise(student), _standardise(teacher)) / 2


def _standardise(maps: torch.Tensor) -> torch.Tensor:
    std, mean = torch.std_mean(maps, dim=(0, 2, 3), keepdim=True)
    return (maps - mean) * (std + 1e-6).reciprocal()
