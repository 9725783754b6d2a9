"""The gradients of both losses at the student's pyramid, as they pass by."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from kdvit_mm.selection.recorder import Pyramid


class PyramidGradients(NamedTuple):
    """Products of the two gradients of each image at each level.

    Attributes:
        task (torch.Tensor): Squared norm of the task loss's gradient, of
            shape (N, L).
        distill (torch.Tensor): That of the distill loss, NaN where the pair
            was not distilled.
        inner (torch.Tensor): Their inner product, NaN likewise.
    """

    task: torch.Tensor
    distill: torch.Tensor
    inner: torch.Tensor

    @property
    def distill_norms(self) -> torch.Tensor:
        """Norm of each level's over the batch, (L,), NaN without images."""
        known = ~self.distill.isnan().all(0)
        return self.distill.nansum(0).sqrt().where(known, torch.nan)


class GradientWatch:
    """Notices the gradients at a pyramid in the step's own backward.

    Args:
        num_levels (int): Number of levels, L.
    """

    def __init__(self, num_levels: int) -> None:
        self.num_levels = num_levels
        self._waiting: dict[int, dict[str, torch.Tensor]] = {}
        self._products: dict[int, tuple[torch.Tensor, ...]] = {}

    def watch(
        self, pyramid: Sequence[torch.Tensor], mask: torch.Tensor
    ) -> None:
        """Sees to it that the gradients at a pyramid are noticed.

        Args:
            pyramid (Sequence[torch.Tensor]): The student's maps, a
                :class:`Pyramid`.
            mask (torch.Tensor): The pairs that are distilled, booleans of
                shape (N, L).

        Raises:
            ValueError: If a map has no gradient, or is not recorded apart
                for the head and the distillation.
        """
        self._waiting.clear()
        self._products.clear()
        if not isinstance(pyramid, Pyramid):
            raise ValueError(
                'SelectedLevelsLoss needs the gradients of the task and of '
                "the distillation apart. Record the student's pyramid by "
                "dict(type='FPNLevelSelection', source='neck')."
            )
        for level, is_distilled in enumerate(mask.any(0).tolist()):
            if not pyramid[level].requires_grad:
                raise ValueError(
                    f"SelectedLevelsLoss: level {level} of the student's "
                    'pyramid has no gradient, so nothing can be learned about '
                    'it. Record a module of the student that is trained.'
                )
            images = mask[:, level] if is_distilled else None
            notice = partial(self.notice, level, images)
            pyramid.used[level].register_hook(partial(notice, 'task'))
            if is_distilled:
                pyramid[level].register_hook(partial(notice, 'distill'))

    @torch.no_grad()
    def notice(
        self,
        level: int,
        images: torch.Tensor | None,
        kind: str,
        gradient: torch.Tensor,
    ) -> None:
        """Takes the gradient of a level.

        Args:
            level (int): The level.
            images (torch.Tensor | None): Which images are distilled on it,
                booleans of shape (N,); None for no image.
            kind (str): ``'task'`` or ``'distill'``.
            gradient (torch.Tensor): The gradient, of shape (N, C, H, W).
        """
        found = self._waiting.setdefault(level, {})
        found[kind] = gradient.float()
        if len(found) < 1 + (images is not None):
            return
        task = self._waiting.pop(level)['task']
        own = per_image(task, task)
        distill = inner = torch.full_like(own, torch.nan)
        if images is not None:
            distill, inner = (
                per_image(found['distill'], x).where(images, torch.nan)
                for x in (found['distill'], task)
            )
        self._products[level] = own, distill, inner

    def take(self) -> PyramidGradients | None:
        """What was noticed; None if there was no backward."""
        if len(self._products) < self.num_levels:
            return None
        levels = [self._products.pop(i) for i in range(self.num_levels)]
        return PyramidGradients(
            *(torch.stack(x, 1) for x in zip(*levels, strict=True))
        )


def per_image(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product of each image's maps of shape (N, C, H, W), (N,)."""
    return (a * b).flatten(1).sum(1)
