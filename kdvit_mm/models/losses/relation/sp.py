"""Similarity-preserving distillation."""

import torch

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.unit import unit_vectors
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class SPLoss(DistillLoss):
    r"""Preserves the similarities between the images of a batch.

    With F the batch's features, a row per image, and :math:`G` the matrix
    :math:`F F^\top` with each row divided by its length,

    .. math:: L = \frac{1}{N^2} \|G_S - G_T\|_F^2

    per level, summed over levels. Features may have any shapes; only the
    batch N must be the same.

    Tung and Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019,
    arXiv:1907.09682. The authors have released no code; values are those of
    https://github.com/HobbitLong/RepDistiller, which they have checked. An
    image whose features are all 0 has no gradient here, where that code's
    is of a magnitude of 1e12. N is the batch of one GPU.

    RepDistiller's weight, on the last map before the pooling, is 3000.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: When it gets a single image, whose loss is always 0.
    """

    takes_dims = (2, 3, 4)
    equal_dims = 1
    min_images = 2

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from features of shape (N, …)."""
        return similarity_distance(student, teacher)


def similarity_distance(
    student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    """Mean squared difference of the similarities of a batch's images.

    Args:
        student (torch.Tensor): Features of N images, of shape (N, …), in at
            least float32.
        teacher (torch.Tensor): The teacher's, of any shape (N, …).

    Returns:
        torch.Tensor: A scalar.
    """
    return (_similarities(student) - _similarities(teacher)).square().mean()


def _similarities(features: torch.Tensor) -> torch.Tensor:
    rows = features.flatten(1)
    return unit_vectors(rows @ rows.mT)
