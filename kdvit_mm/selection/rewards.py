"""What distilling an image on a level is worth to the student."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.gradients import PyramidGradients
from kdvit_mm.selection.selectors.selector import mean_over_ranks, move_mean

#: Weight of the newest batch in the running means.
MOMENTUM = 0.05

#: Gives the loss of each image as the student is now, of shape (N,).
Measure = Callable[[], torch.Tensor]


class Reward(nn.Module):
    """Base of the rewards; what they keep is in the state dict.

    Args:
        num_levels (int): Number of levels, L.
    """

    #: Whether it knows only what is measured in probes.
    needs_probes = False

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels

    def before_step(self, measure: Measure | None) -> None:
        """Prepares for a training step.

        Args:
            measure (Measure | None): Measures the images' losses; None
                except in probes.
        """

    @abstractmethod
    def after_step(
        self,
        mask: torch.Tensor,
        gradients: PyramidGradients | None,
        measure: Measure | None,
    ) -> torch.Tensor | None:
        """Computes what the levels were worth. All ranks have to call it.

        Args:
            mask (torch.Tensor): The pairs of image and level that were
                distilled, booleans of shape (N, L).
            gradients (PyramidGradients | None): Those of the step; None if
                there was no backward.
            measure (Measure | None): As before the step.

        Returns:
            torch.Tensor | None: Quality of shape (N, L), NaN where it is not
            known; None where none is.
        """


@MODELS.register_module()
class AlignedReward(Reward):
    r"""How far a level's distillation lowers the task loss, to first order.

    With :math:`g_i` the gradient of the image's task loss and :math:`d_i` of
    its distill loss at level i of the student's pyramid,

    .. math:: q_i = \langle g_i, d_i \rangle / (\|g\| \|d\|),

    norms over all levels; for levels that were not distilled, the part in
    :math:`\|d\|` is a running estimate. Both gradients pass by in the step's
    own backward: no further one is made, and a loss scale cancels.

    Args:
        num_levels (int): Number of levels, L.
    """

    ratios: torch.Tensor

    def __init__(self, num_levels: int) -> None:
        super().__init__(num_levels)
        # Of the squared norms of d_i and g, the mean over images.
        self.register_buffer('ratios', torch.full((num_levels,), torch.nan))

    @torch.no_grad()
    def after_step(
        self,
        mask: torch.Tensor,
        gradients: PyramidGradients | None,
        measure: Measure | None = None,
    ) -> torch.Tensor | None:
        """As in :class:`Reward`."""
        if gradients is None:
            return None
        norm = gradients.task.sum(1, keepdim=True)
        ratios = mean_over_ranks(gradients.distill / norm)
        move_mean(self.ratios, ratios, MOMENTUM)
        # A level that was never distilled counts as 0.
        expected = self.ratios.nan_to_num() * norm
        squares = gradients.distill.where(mask, expected).sum(1, keepdim=True)
        return gradients.inner / (norm.sqrt() * squares.sqrt())


@MODELS.register_module()
class MeasuredReward(Reward):
    """What a step did to an image's losses, task and all levels together.

    (before - after) / before, with the image's task loss and its distill loss
    on all levels before and after the optimiser's step, is shared out evenly
    among the levels chosen for it. Taken in probes, with two forwards of the
    student per image. Noisy: the whole batch makes the step. It is there to
    check :class:`AlignedReward`.

    Args:
        num_levels (int): Number of levels, L.
    """

    needs_probes = True

    def __init__(self, num_levels: int) -> None:
        super().__init__(num_levels)
        self._before: torch.Tensor | None = None

    def before_step(self, measure: Measure | None) -> None:
        """As in :class:`Reward`."""
        self._before = measure and measure()

    def after_step(
        self,
        mask: torch.Tensor,
        gradients: PyramidGradients | None,
        measure: Measure | None,
    ) -> torch.Tensor | None:
        """As in :class:`Reward`."""
        if self._before is None or measure is None:
            return None
        gain = (self._before - measure()) / self._before
        share = gain / mask.sum(1)
        return share[:, None].where(mask, torch.nan)
