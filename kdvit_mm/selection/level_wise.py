"""Any loss of a pyramid level on the chosen images of each level."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from kdvit_mm.models.losses.wrappers.level_wise import LevelWise
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.selection.operations import count_operations
from kdvit_mm.selection.plan import Outcome, State


class MaskedLevelWise(LevelWise):
    """Sums a loss over the pairs of image and level that a mask has.

    A pair that it does not have costs neither its loss nor its connector. A
    level adds its loss on its images times their share of the batch: with all
    of them, this is :class:`LevelWise`. A level without images adds exactly
    0, and its parameters get gradients of 0, as DistributedDataParallel
    requires.

    Args:
        loss (dict | Sequence[dict]): As in :class:`LevelWise`.
        num_levels (int): Number of levels, L.
        connector (dict | Sequence[dict] | None): As in :class:`LevelWise`.
            Defaults to None.

    Raises:
        ValueError: If there is not one config per level, or the loss computes
            a whole pyramid.
    """

    def __init__(
        self,
        loss: dict | Sequence[dict],
        num_levels: int,
        connector: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(loss, num_levels, connector)
        if len(self.losses) < num_levels:
            raise ValueError(
                f'SelectedLevelsLoss: {type(self.losses[0]).__name__} '
                'computes a whole pyramid. Give it one config per level, each '
                'for that level alone.'
            )
        self._costs: dict[Any, torch.Tensor] = {}

    def forward(  # type: ignore[override]
        self,
        state: State,
        mask: torch.Tensor,
        weights: torch.Tensor | None = None,
        level_weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Outcome]:
        """Computes the loss.

        Args:
            state (State): The maps of both sides.
            mask (torch.Tensor): The pairs of image and level, booleans of
                shape (N, L).
            weights (torch.Tensor | None): What the loss of each pair is
                multiplied by, of shape (N, L). Defaults to None, 1.
            level_weights (torch.Tensor | None): The same of each level, of
                shape (L,). Defaults to None, 1.

        Returns:
            tuple[torch.Tensor, Outcome]: The sum, a scalar, and what it is
            made of, the quality not known yet.
        """
        losses = torch.stack(
            [
                self._masked_loss(level, state, mask, weights)
                for level in range(self.num_levels)
            ]
        )
        shares = mask.float().mean(0)
        factors = shares if level_weights is None else level_weights * shares
        outcome = Outcome(
            state=state,
            mask=mask,
            losses=losses.where(shares > 0, torch.nan),
            quality=torch.full_like(mask, torch.nan, dtype=torch.float32),
        )
        return (factors * losses).sum(), outcome

    def _masked_loss(
        self,
        level: int,
        state: State,
        mask: torch.Tensor,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """Mean loss of a level over its images."""
        images = mask[:, level].nonzero().flatten().tolist()
        if not images:
            return self._nothing(level, mask.device)
        if weights is None:
            return self._loss_of(level, state, images)
        terms = [
            weights[n, level] * self._loss_of(level, state, [n])
            for n in images
        ]
        return torch.stack(terms).mean()

    def _loss_of(
        self, level: int, state: State, images: list[int]
    ) -> torch.Tensor:
        student, teacher = state.student[level], state.teacher[level]
        samples = state.samples
        if len(images) < len(student):
            student, teacher = student[images], teacher[images]
            if samples is not None:
                samples = [samples[n] for n in images]
        return self.level_loss(level, student, teacher, samples)

    def _nothing(self, level: int, device: torch.device) -> torch.Tensor:
        """A 0 that all parameters of a level have a part in."""
        modules = [self.losses[level]]
        if self.connectors is not None:
            modules.append(self.connectors[level])
        return sum(
            (0 * p.sum() for module in modules for p in module.parameters()),
            torch.zeros((), device=device),
        )

    def level_costs(
        self,
        preds_S: Sequence[torch.Tensor],
        preds_T: Sequence[torch.Tensor],
        data_samples: Sequence[Any] | None,
    ) -> torch.Tensor:
        """Share of each level in the operations of connectors and losses.

        They are counted once for every set of sizes, on one image.

        Args:
            preds_S (Sequence[torch.Tensor]): The student's pyramid.
            preds_T (Sequence[torch.Tensor]): The teacher's.
            data_samples (Sequence[Any] | None): The batch's samples.

        Returns:
            torch.Tensor: The shares, of shape (L,), with the sum 1.
        """
        sizes = tuple(x.shape[1:] for x in (*preds_S, *preds_T))
        if sizes not in self._costs:
            one = None if data_samples is None else data_samples[:1]
            mode = self.training
            # Batch norms must not see this image once more.
            self.eval()
            with isolated_rng(0):
                counts = [
                    count_operations(
                        partial(
                            self.level_loss,
                            level,
                            student[:1].detach(),
                            teacher[:1].detach(),
                            one,
                        )
                    )
                    for level, (student, teacher) in enumerate(
                        zip(preds_S, preds_T, strict=True)
                    )
                ]
            self.train(mode)
            self._costs[sizes] = torch.tensor(counts) / sum(counts)
        return self._costs[sizes].to(preds_S[0].device)
