"""What distilling an image on a level is worth to the student."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import nn

from kdvit_mm.models.recorders.fpn_level_selection import Pyramid
from kdvit_mm.registry import MODELS

#: Weight of the newest batch in the running means.
MOMENTUM = 0.05


@MODELS.register_module()
class AlignedQuality(nn.Module):
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
        super().__init__()
        self.num_levels = num_levels
        # Of the squared norms of d_i and g, the mean over images.
        self.register_buffer('ratios', torch.full((num_levels,), torch.nan))
        self._gradients: dict[int, dict[str, torch.Tensor]] = {}
        self._task: dict[int, torch.Tensor] = {}
        self._inner: dict[int, torch.Tensor] = {}
        self._sizes: dict[int, torch.Tensor] = {}

    def watch(self, pyramid: Pyramid, applied: torch.Tensor) -> None:
        """Sees to it that the gradients at a pyramid are noticed.

        Args:
            pyramid (Pyramid): The student's maps.
            applied (torch.Tensor): The pairs that are distilled, booleans of
                shape (N, L).

        Raises:
            ValueError: If a map has no gradient, or is not recorded apart
                for the head and the distillation.
        """
        for found in (self._gradients, self._task, self._inner, self._sizes):
            found.clear()
        if not isinstance(pyramid, Pyramid):
            raise ValueError(
                f'{type(self).__name__} needs the gradients of the task and '
                "of the distillation apart. Record the student's pyramid by "
                "dict(type='FPNLevelSelection', source='neck')."
            )
        for level, is_distilled in enumerate(applied.any(0).tolist()):
            if not pyramid[level].requires_grad:
                raise ValueError(
                    f"{type(self).__name__}: level {level} of the student's "
                    'pyramid has no gradient, so nothing can be learned about '
                    'it. Record a module of the student that is trained.'
                )
            measure = partial(self._measure, level, is_distilled)
            pyramid.used[level].register_hook(partial(measure, 'task'))
            if is_distilled:
                pyramid[level].register_hook(partial(measure, 'distill'))

    @torch.no_grad()
    def _measure(
        self, level: int, is_distilled: bool, kind: str, gradient: torch.Tensor
    ) -> None:
        found = self._gradients.setdefault(level, {})
        found[kind] = gradient.float()
        if len(found) < 1 + is_distilled:
            return
        del self._gradients[level]
        self._task[level] = _per_image(found['task'], found['task'])
        if is_distilled:
            distill = found['distill']
            self._inner[level] = self._product(level, found['task'], distill)
            self._sizes[level] = _per_image(distill, distill)

    def _product(
        self, level: int, task: torch.Tensor, distill: torch.Tensor
    ) -> torch.Tensor:
        return _per_image(task, distill)

    @torch.no_grad()
    def take(self, applied: torch.Tensor) -> torch.Tensor | None:
        """Computes the quality after a backward.

        Args:
            applied (torch.Tensor): The pairs that were distilled, booleans of
                shape (N, L).

        Returns:
            torch.Tensor | None: Quality of shape (N, L), NaN where it is not
            known; None if there was no backward.
        """
        if len(self._task) < self.num_levels:
            return None
        task = torch.stack([self._task[i] for i in range(self.num_levels)])
        norm = task.sum(0)
        nothing = torch.full_like(norm, torch.nan)
        inner, sizes = (
            torch.stack(
                [found.get(i, nothing) for i in range(self.num_levels)], 1
            ).where(applied, torch.nan)
            for found in (self._inner, self._sizes)
        )
        self._update_ratios(sizes / norm[:, None])
        # A level that was never distilled counts as 0.
        expected = self.ratios.nan_to_num() * norm[:, None]
        squares = sizes.where(applied, expected).sum(1)
        return inner / (self._reference(norm) * squares.sqrt())[:, None]

    def _reference(self, squared_norm: torch.Tensor) -> torch.Tensor:
        """Norm of what the distill gradient is compared with."""
        return squared_norm.sqrt()

    def distill_norms(self) -> torch.Tensor:
        """Norm of each level's distill gradient over the batch.

        Returns:
            torch.Tensor: Norms of shape (L,), NaN where there was none.
        """
        return torch.stack(
            [
                self._sizes[i].sum().sqrt()
                if i in self._sizes
                else self.ratios.new_tensor(torch.nan)
                for i in range(self.num_levels)
            ]
        )

    def _update_ratios(self, ratios: torch.Tensor) -> None:
        known = ratios.isfinite()
        sums = torch.stack([ratios.where(known, 0).sum(0), known.sum(0)])
        all_reduce(sums)
        mean = sums[0] / sums[1]
        old = self.ratios.where(self.ratios.isfinite(), mean)
        new = torch.lerp(old, mean, MOMENTUM)
        self.ratios.copy_(new.where(mean.isfinite(), self.ratios))


@MODELS.register_module()
class InfluenceQuality(AlignedQuality):
    r"""As :class:`AlignedQuality`, for images that the student does not see.

    The image's own task gradient gives way to the running mean :math:`G_i`
    of the task gradient of held-out images at the weight of the level's last
    neck convolution. With x the input of that convolution,

    .. math::
        q_i = \langle G_i * x, d_i \rangle / (\|G\| \, \|d\| \, \|x\|),

    the numerator being the product of :math:`G_i` with the distill
    gradient at the weight. The hook needs a ``probe_dataloader``.

    Args:
        num_levels (int): Number of levels, L.
        convs (Sequence[str]): Names in the student of each level's last neck
            convolution, such as ``'neck.fpn_convs.0.conv'``.

    Raises:
        ValueError: If there is not one name per level.
    """

    def __init__(self, num_levels: int, convs: Sequence[str]) -> None:
        super().__init__(num_levels)
        if len(convs) != num_levels:
            raise ValueError(
                f'InfluenceQuality: convs has {len(convs)} names for '
                f'num_levels={num_levels}. Name one convolution per level.'
            )
        self.names = list(convs)
        # Their sizes are known with the student.
        self.gradients: list[torch.Tensor] | None = None
        self._convs: list[nn.Conv2d] = []
        self._inputs: dict[int, torch.Tensor] = {}

    def attach(self, student: nn.Module) -> None:
        """Takes the convolutions from the student.

        Args:
            student (nn.Module): The student.

        Raises:
            ValueError: If it has no such convolution.
        """
        modules = dict(student.named_modules())
        for level, name in enumerate(self.names):
            conv = modules.get(name)
            if not isinstance(conv, nn.Conv2d):
                convs = [
                    n for n, m in modules.items() if isinstance(m, nn.Conv2d)
                ]
                raise ValueError(
                    f'InfluenceQuality: convs names "{name}", which is not a '
                    'convolution of the student. The last ones before its '
                    f'head may be among {convs[-12:]}.'
                )
            self._convs.append(conv)
            conv.register_forward_pre_hook(partial(self._keep_input, level))

    def _keep_input(
        self, level: int, module: nn.Module, inputs: tuple
    ) -> None:
        if module.training and torch.is_grad_enabled():
            self._inputs[level] = inputs[0].detach()

    @torch.no_grad()
    def _product(
        self, level: int, task: torch.Tensor, distill: torch.Tensor
    ) -> torch.Tensor:
        if self.gradients is None:
            return torch.full_like(distill[:, 0, 0, 0], torch.nan)
        x, conv = self._inputs[level].float(), self._convs[level]
        moved = F.conv2d(
            x, self.gradients[level], None, conv.stride, conv.padding
        )
        norm = sum(g.square().sum() for g in self.gradients) ** 0.5
        return _per_image(moved, distill) / (norm * _per_image(x, x).sqrt())

    def _reference(self, squared_norm: torch.Tensor) -> torch.Tensor:
        # The product is divided by it already, level by level.
        return torch.ones_like(squared_norm)

    def see_held_out(self, loss: torch.Tensor) -> None:
        """Takes the task gradient of a held-out batch into the mean.

        Args:
            loss (torch.Tensor): The student's task loss on it.
        """
        weights = [conv.weight for conv in self._convs]
        new = [g.float() for g in torch.autograd.grad(loss, weights)]
        for gradient in new:
            all_reduce(gradient)
            gradient /= get_world_size()
        if self.gradients is None:
            self.gradients = new
        for old, gradient in zip(self.gradients, new, strict=True):
            old.lerp_(gradient, MOMENTUM)


@MODELS.register_module()
class MeasuredQuality(AlignedQuality):
    """What a step did to an image's losses, task and all levels together.

    (before - after) / before, with the image's task loss and its distill loss
    on all levels before and after the optimiser's step, is shared out evenly
    among the levels chosen for it. Taken every ``probe_interval`` iterations
    by the hook, with two forwards of the student per image. Noisy: the whole
    batch makes the step. It is there to check :class:`AlignedQuality`.

    Args:
        num_levels (int): Number of levels, L.
    """

    def __init__(self, num_levels: int) -> None:
        super().__init__(num_levels)
        self._totals: list[torch.Tensor] = []

    def see_losses(self, totals: torch.Tensor) -> None:
        """Takes the images' losses, first before and then after the step.

        Args:
            totals (torch.Tensor): Loss of each image, of shape (N,).
        """
        self._totals.append(totals)

    def take(self, applied: torch.Tensor) -> torch.Tensor | None:
        """Computes the quality after the step, as the base class does."""
        super().take(applied)
        if len(self._totals) < 2:
            self._totals.clear()
            return None
        before, after = self._totals
        self._totals = []
        gain = (before - after) / before
        share = gain / applied.sum(1)
        return share[:, None].where(applied, torch.nan)


def _per_image(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(1)


def total_of(losses: dict[str, Any]) -> torch.Tensor:
    """Sum of all losses in what a model returns.

    Args:
        losses (dict[str, Any]): Tensors and lists of tensors by name; those
            without 'loss' in the name are statistics.

    Returns:
        torch.Tensor: The sum, a scalar.
    """
    terms = [
        value.mean()
        for name, values in losses.items()
        if 'loss' in name
        for value in (values if isinstance(values, list) else [values])
    ]
    return torch.stack(terms).sum()
