"""Distillation of the relations between and within classes."""

import torch

from kdvit_mm.models.losses.base import DistillLoss, tempered
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DISTLoss(DistillLoss):
    r"""Preserves the correlation of predictions over classes and samples.

    With r Pearson's correlation of the student's and the teacher's
    probabilities,

    .. math:: L = \tau^2 \big(\beta (1 - \overline{r}_{rows})
        + \gamma (1 - \overline{r}_{columns})\big),

    where a row is what one sample gives all classes and a column what all
    samples of the batch give one class. Samples are images for (N, C) and
    pixels for (N, C, H, W).

    Huang et al., *Knowledge Distillation from A Stronger Teacher*, NeurIPS
    2022, arXiv:2205.10536. Official code: https://github.com/hunto/DIST_KD,
    and https://github.com/hunto/MasKD for detection. A single sample has no
    correlation within a class; its r is 0, as there.

    Args:
        beta (float): Weight of the relation between classes. Defaults to 1.0.
        gamma (float): Weight of the relation within a class. Defaults to 1.0.
        tau (float): Temperature, by which logits are divided. Defaults to
            1.0.
        use_sigmoid (bool): Whether the probabilities are sigmoids, as of
            detection heads without a background class, instead of a softmax
            over dimension 1. Defaults to False.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    takes_dims = (2, 4)
    compares_classes = True

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        tau: float = 1.0,
        use_sigmoid: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.beta = beta
        self.gamma = gamma
        self.tau = tau
        self.use_sigmoid = use_sigmoid

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from logits of shape (N, C) or (N, C, H, W)."""
        dtype, classes = student.dtype, student.size(1)
        if 2 in (classes, student.numel() // classes):
            # Two classes, or samples, correlate by 1 or -1 whatever they are:
            # the gradient is what numbers that cancel out leave.
            student, teacher = student.double(), teacher.double()
        student, teacher = self._probs(student), self._probs(teacher)
        samples = [0, 2, 3][: student.dim() - 1]
        inter = 1 - _correlation(student, teacher, [1]).mean()
        intra = 1 - _correlation(student, teacher, samples).mean()
        loss = self.tau**2 * (self.beta * inter + self.gamma * intra)
        return loss.to(dtype)

    def _probs(self, logits: torch.Tensor) -> torch.Tensor:
        logits = tempered(logits, self.tau)
        return logits.sigmoid() if self.use_sigmoid else logits.softmax(1)


def _correlation(
    a: torch.Tensor, b: torch.Tensor, dim: list[int]
) -> torch.Tensor:
    """Pearson's correlation over ``dim``; 0 where one of both is constant."""
    a = a - a.mean(dim, keepdim=True)
    b = b - b.mean(dim, keepdim=True)
    norms = _norm(a, dim) * _norm(b, dim)
    return (a * b).sum(dim) / (norms + 1e-8)


def _norm(a: torch.Tensor, dim: list[int]) -> torch.Tensor:
    # vector_norm adds up in sequence: 2e-5 off on a segmentation map. The
    # bound keeps the gradient of the root at 0 from being infinite.
    squares = a.square().sum(dim)
    return squares.clamp_min(torch.finfo(a.dtype).tiny).sqrt()
