"""Any loss of a pyramid level on the levels chosen for each image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from kdvit_mm.models.losses.wrappers.level_wise import LevelWise
from kdvit_mm.models.selectors.cost import count_operations
from kdvit_mm.models.selectors.memory import image_keys
from kdvit_mm.models.selectors.selector import Selection
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.registry import MODELS


@dataclass
class Decision:
    """What was decided on a batch, and what came of it.

    Attributes:
        selection (Selection): What the selector chose.
        applied (torch.Tensor): The pairs that were distilled, booleans of
            shape (N, L): the chosen ones, or all before the joint phase.
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).
        losses (torch.Tensor): Each level's mean loss over its images, of
            shape (L,), NaN where it has none.
        pyramids (tuple): The student's and the teacher's maps.
        data_samples (Sequence[Any] | None): The batch's samples.
    """

    selection: Selection
    applied: torch.Tensor
    costs: torch.Tensor
    losses: torch.Tensor
    pyramids: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]
    data_samples: Sequence[Any] | None


@MODELS.register_module()
class SelectedLevelsLoss(LevelWise):
    """Distils each image on the pyramid levels that a selector chooses.

    A pair of image and level that is not chosen costs neither its loss nor
    its connector. A level adds its loss on the chosen images times their
    share of the batch: with all chosen, the sum of the levels' losses. A
    level that no image chose adds exactly 0, and its parameters get gradients
    of 0, as DistributedDataParallel requires.

    The selector learns through
    :class:`~kdvit_mm.engine.hooks.LevelSelectionHook`, which also sets the
    phase and keeps the selector's parameters out of the student's optimiser.

    Args:
        selector (dict): Config of the :class:`LevelSelector`, without
            ``num_levels``.
        loss (dict | Sequence[dict]): Config of the loss of a level, such as
            ``dict(type='CWDLoss', loss_weight=10)``, or one config per level.
        num_levels (int): Number of levels, L.
        connector (dict | Sequence[dict] | None): Config of the student's
            connector of a level, or one config per level. Defaults to None.
        quality (dict | None): Config of the measure of what a level's
            distillation is worth, the reward. Defaults to None,
            :class:`AlignedQuality`.
        grad_norm (dict | None): Config of :class:`GradNorm`, which balances
            the levels. Defaults to None.
        loss_weight (float): Weight of the sum. Defaults to 1.0.

    Raises:
        ValueError: If there is not one config per level, or the loss computes
            a whole pyramid.
    """

    renamed_keys = {'level_loss': 'loss'}

    def __init__(
        self,
        selector: dict,
        loss: dict | Sequence[dict],
        num_levels: int,
        connector: dict | Sequence[dict] | None = None,
        quality: dict | None = None,
        grad_norm: dict | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        # First, so that the policy's draws do not depend on the losses.
        policy = MODELS.build({'num_levels': num_levels, **selector})
        # mmengine's initialisation does not reach into a distiller's losses.
        policy.init_weights()
        super().__init__(loss, num_levels, connector, loss_weight=loss_weight)
        if len(self.losses) < num_levels:
            raise ValueError(
                f'SelectedLevelsLoss: {type(self.losses[0]).__name__} '
                'computes a whole pyramid. Give it one config per level, each '
                'for that level alone.'
            )
        self.selector = policy
        levels = {'num_levels': num_levels}
        self.quality = MODELS.build(
            {'type': 'AlignedQuality', **levels, **(quality or {})}
        )
        self.grad_norm = (
            None
            if grad_norm is None
            else MODELS.build({'type': 'GradNorm', **levels, **grad_norm})
        )
        #: Whether the selector's choice is applied, or all levels are.
        self.applies_selection = True
        #: Whether what the levels are worth is measured in training.
        self.measures_quality = True
        self.last: Decision | None = None
        self._costs: dict[Any, torch.Tensor] = {}
        self._probe: SimpleNamespace | None = None

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (Pyramid): The student's pyramid, a map of shape
                (N, C, H, W) per level.
            preds_T (Pyramid): The teacher's.
            data_samples (Sequence[Any] | None): The batch's samples, which
                some losses need. Defaults to None.

        Returns:
            torch.Tensor: The loss, a scalar.

        Raises:
            ValueError: If a pyramid does not have ``num_levels`` levels.
        """
        self.check_pyramids(preds_S, preds_T)
        costs = self.level_costs(preds_S, preds_T, data_samples)
        if self._probe is not None:
            self._probe.costs = costs
            self._probe.pyramids = (preds_S, preds_T)
            self._probe.data_samples = data_samples
            self._probe.losses = [
                self.level_loss(level, *pair, data_samples)
                for level, pair in enumerate(
                    zip(preds_S, preds_T, strict=True)
                )
            ]
            return self.loss_weight * torch.stack(self._probe.losses).sum()
        images = image_keys(data_samples)
        selection = self.selector(preds_S, preds_T, costs, images)
        applied, weights = selection.levels, selection.weights
        if not self.applies_selection:
            applied = torch.ones_like(applied)
            weights = torch.ones_like(weights)
        trains = self.training and torch.is_grad_enabled()
        if self.measures_quality and trains:
            self.quality.watch(preds_S, applied)
        values = [
            self._selected_loss(
                level,
                *pair,
                data_samples,
                applied[:, level],
                weights[:, level],
            )
            for level, pair in enumerate(zip(preds_S, preds_T, strict=True))
        ]
        shares = applied.float().mean(0)
        factors = shares
        if self.grad_norm is not None:
            factors = self.grad_norm.weights * shares
        total = sum(
            factor * value
            for factor, value in zip(factors, values, strict=True)
        )
        losses = torch.stack([value.detach() for value in values])
        self.last = Decision(
            selection=selection,
            applied=applied,
            costs=costs,
            losses=losses.where(shares > 0, torch.nan),
            pyramids=(preds_S, preds_T),
            data_samples=data_samples,
        )
        return self.loss_weight * total

    def _selected_loss(
        self,
        level: int,
        student: torch.Tensor,
        teacher: torch.Tensor,
        data_samples: Sequence[Any] | None,
        chosen: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Mean loss of a level over the images that chose it."""
        images = chosen.nonzero().flatten().tolist()
        if not images:
            return self._nothing(level)
        if weights.requires_grad:
            # Soft weights are the images' own.
            terms = [
                weights[n]
                * self._subset_loss(level, student, teacher, data_samples, [n])
                for n in images
            ]
            return torch.stack(terms).mean()
        return self._subset_loss(level, student, teacher, data_samples, images)

    def _subset_loss(
        self,
        level: int,
        student: torch.Tensor,
        teacher: torch.Tensor,
        data_samples: Sequence[Any] | None,
        images: list[int],
    ) -> torch.Tensor:
        if len(images) < len(student):
            student, teacher = student[images], teacher[images]
            if data_samples is not None:
                data_samples = [data_samples[n] for n in images]
        return self.level_loss(level, student, teacher, data_samples)

    def _nothing(self, level: int) -> torch.Tensor:
        """A 0 that all parameters of a level have a part in."""
        zero = torch.zeros((), device=self.selector.step.device)
        modules = [self.losses[level]]
        if self.connectors is not None:
            modules.append(self.connectors[level])
        for module in modules:
            for parameter in module.parameters():
                zero = zero + 0 * parameter.sum()
        return zero

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

    @contextmanager
    def probing(self) -> Iterator[SimpleNamespace]:
        """Computes all levels, without a decision or a trace in the state.

        Yields:
            SimpleNamespace: With ``costs``, ``pyramids``, ``data_samples``
            and ``losses``, a scalar per level, of the last forward.
        """
        self._probe = SimpleNamespace()
        try:
            yield self._probe
        finally:
            self._probe = None
