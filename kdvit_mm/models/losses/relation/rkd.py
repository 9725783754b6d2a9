"""Relational knowledge distillation."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.unit import unit_vectors
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class RKDLoss(DistillLoss):
    r"""Preserves the distances and angles between images.

    With :math:`d_{ij}` the distance of the embeddings of two images over the
    mean distance of all pairs of the batch, and :math:`a_{ijk}` the cosine of
    the angle at i between j and k,

    .. math:: L = w_d\, \overline{h(d^S_{ij} - d^T_{ij})}
        + w_a\, \overline{h(a^S_{ijk} - a^T_{ijk})},

    h being the smooth L1 (Huber) loss. Embeddings may be of any shape, also
    maps, and differ in all but the batch.

    Park, Kim, Lu and Cho, *Relational Knowledge Distillation*, CVPR 2019,
    arXiv:1904.05068. Official code: https://github.com/lenscloth/RKD, whose
    networks normalise embeddings to length 1 by default; for classification
    https://github.com/megvii-research/mdistiller, which does not. Both take
    :math:`N^2` differences of embeddings, here cosines come from distances,
    which are computed in float64. Images whose embeddings coincide, nearer
    than 1e-6 of the root mean square distance, form no angle: a cosine of 0
    as there, without a gradient of 1e12. Memory grows with :math:`N^3`, N
    being the batch of one GPU.

    Two images have one distance and no angle: the loss is 0.

    Args:
        distance_weight (float): Weight :math:`w_d`. Defaults to 25.0, as in
            mdistiller; 1 in the official code.
        angle_weight (float): Weight :math:`w_a`. Defaults to 50.0, as in
            mdistiller; 2 in the official code.
        l2_norm (bool): Whether embeddings of both are normalised to length 1
            first. Defaults to False.
        squared (bool): Whether distances are squared. Defaults to False.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: When it gets a single image.
    """

    takes_dims = (2, 3, 4)
    equal_dims = 1
    min_images = 2

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        l2_norm: bool = False,
        squared: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.l2_norm = l2_norm
        self.squared = squared

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from embeddings of shape (N, …)."""
        pair = [self._squared_distances(x) for x in (student, teacher)]
        loss = student.new_zeros(())
        if self.distance_weight:
            ours, theirs = (self._relative_distances(x) for x in pair)
            loss = loss + self.distance_weight * F.smooth_l1_loss(ours, theirs)
        if self.angle_weight:
            ours, theirs = (_cosines(x) for x in pair)
            loss = loss + self.angle_weight * F.smooth_l1_loss(ours, theirs)
        return loss

    def _squared_distances(self, embeddings: torch.Tensor) -> torch.Tensor:
        rows = embeddings.flatten(1)
        if self.l2_norm:
            rows = unit_vectors(rows)
        # Differences of products, of which float32 would leave little where
        # distances are small beside the embeddings.
        rows = rows.double()
        rows = rows - rows.mean(0)
        products = rows @ rows.mT
        own = products.diagonal()
        squares = own[:, None] + own - 2 * products
        return squares.fill_diagonal_(0).to(embeddings.dtype)

    def _relative_distances(self, squares: torch.Tensor) -> torch.Tensor:
        # The bound keeps the gradient of the root at 0 from being infinite.
        distances = squares.clamp_min(1e-12)
        if not self.squared:
            distances = distances.sqrt()
        images = len(distances)
        itself = torch.eye(images, dtype=torch.bool, device=distances.device)
        distances = distances.masked_fill(itself, 0)
        return distances / (distances.sum() / (images * (images - 1)))


def _cosines(squares: torch.Tensor) -> torch.Tensor:
    """Cosines at i between j and k, by the law of cosines: (N, N, N)."""
    coincide = squares <= 1e-12 * squares.mean()
    inverse = squares.masked_fill(coincide, 1).rsqrt()
    inverse = inverse.masked_fill(coincide, 0)
    products = (squares[:, :, None] + squares[:, None] - squares) / 2
    return products * inverse[:, :, None] * inverse[:, None]
