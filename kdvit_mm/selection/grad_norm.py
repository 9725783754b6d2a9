"""Weights that let all levels train at one pace."""

import torch
from torch import nn

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.selectors.selector import mean_over_ranks


@MODELS.register_module()
class GradNorm(nn.Module):
    r"""Balances the levels' distill losses by their gradients.

    Zhao Chen, Vijay Badrinarayanan, Chen-Yu Lee, Andrew Rabinovich: GradNorm:
    Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
    Networks. ICML 2018, arXiv:1711.02257.

    With :math:`G_i` the norm of the gradient of level i's weighted loss at the
    output of its last neck convolution, which passes by in the step's own
    backward, and :math:`r_i` the level's loss relative to its first and to
    the mean over levels, the weights descend on
    :math:`\sum_i |G_i - \bar G r_i^\alpha|` and are scaled to the sum L after
    each step. Norms are averaged over ranks. A level without a loss in the
    iteration keeps its weight.

    Args:
        num_levels (int): Number of levels, L.
        alpha (float): Pull towards equal training rates; 0 asks for equal
            norms. Defaults to 1.5, within the paper's range of best values.
        lr (float): Step of the logarithm of the weights. Defaults to 0.025.

    Raises:
        ValueError: If ``alpha`` is below 0 or ``lr`` is not above 0.
    """

    weights: torch.Tensor
    first_losses: torch.Tensor

    def __init__(
        self, num_levels: int, alpha: float = 1.5, lr: float = 0.025
    ) -> None:
        super().__init__()
        if alpha < 0 or lr <= 0:
            raise ValueError(
                f'GradNorm: alpha={alpha} must not be below 0 and lr={lr} '
                'must be above 0.'
            )
        self.alpha = alpha
        self.lr = lr
        self.register_buffer('weights', torch.ones(num_levels))
        self.register_buffer(
            'first_losses', torch.full((num_levels,), torch.nan)
        )

    @torch.no_grad()
    def step(self, norms: torch.Tensor, losses: torch.Tensor) -> None:
        """Moves the weights. All ranks have to call it.

        Args:
            norms (torch.Tensor): Norm of each level's weighted gradient, of
                shape (L,); NaN where there was none.
            losses (torch.Tensor): Each level's loss without weight, of shape
                (L,); NaN where there was none.
        """
        norm, loss = mean_over_ranks(norms), mean_over_ranks(losses)
        known = (norm > 0) & loss.isfinite() & norm.isfinite()
        self.first_losses.copy_(
            self.first_losses.where(
                self.first_losses.isfinite() | ~known, loss
            )
        )
        if known.sum() < 2:
            return
        rate = loss / self.first_losses
        rate = rate / rate[known].mean()
        target = norm[known].mean() * rate**self.alpha
        # The norm is proportional to the weight: the descent direction of
        # the logarithm of the weight is the sign of the excess.
        excess = ((norm - target) / (norm + target)).where(known, 0)
        weights = self.weights * torch.exp(-self.lr * excess)
        # Levels without a loss keep theirs, the others share the rest.
        rest = self.weights[known].sum() / weights[known].sum()
        self.weights.copy_(weights.where(~known, weights * rest))
