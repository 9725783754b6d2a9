"""Any distill loss on each level of a pyramid."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn

from kdvit_mm.models.losses.base import DistillLoss, as_levels
from kdvit_mm.models.utils.explain import channel_connector, describe
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class LevelWise(DistillLoss):
    """Sums a loss over pyramid levels, each with modules of its own.

    Every level has its own loss, with its own parameters where the loss has
    any, and its own connector. A loss that computes a whole pyramid
    (``takes_pyramid``) is built once.

    Args:
        loss (dict | Sequence[dict]): Config of the loss of a level, of this
            package or any other, or one config per level.
        num_levels (int): Number of maps that are recorded.
        connector (dict | Sequence[dict] | None): Config of the student's
            connector of a level, or one config per level. Defaults to None.
        levels (Sequence[int] | None): Levels to distil, counted from 0.
            Defaults to None, all.
        loss_weight (float): Weight of the sum. Defaults to 1.0.

    Raises:
        ValueError: If there is not one config per level, or no such level.
    """

    def __init__(
        self,
        loss: dict | Sequence[dict],
        num_levels: int,
        connector: dict | Sequence[dict] | None = None,
        levels: Sequence[int] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.num_levels = num_levels
        self.levels = list(range(num_levels) if levels is None else levels)
        if not set(self.levels) <= set(range(num_levels)) or not self.levels:
            raise ValueError(
                f'{type(self).__name__}: levels={self.levels} are not levels '
                f'of num_levels={num_levels}; write some of 0 to '
                f'{num_levels - 1}.'
            )
        # Connectors first, as a distiller builds them.
        self.connectors = (
            None
            if connector is None
            else nn.ModuleList(self._build('connector', connector))
        )
        self.losses = nn.ModuleList(self._build('loss', loss))
        self.takes_samples = [
            'data_samples' in signature(one.forward).parameters
            for one in self.losses
        ]

    def _build(
        self, key: str, config: dict | Sequence[dict]
    ) -> list[nn.Module]:
        if isinstance(config, dict):
            first = MODELS.build(config)
            if getattr(first, 'takes_pyramid', False):
                return [first]
            return [first, *(MODELS.build(config) for _ in self.levels[1:])]
        if len(config) != len(self.levels):
            raise ValueError(
                f'{type(self).__name__}: {key} has {len(config)} configs for '
                f'{len(self.levels)} levels. Write one for all levels, or '
                'one per level.'
            )
        return [MODELS.build(one) for one in config]

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (Sequence[torch.Tensor]): The student's maps, of shape
                (N, C, H, W) per level.
            preds_T (Sequence[torch.Tensor]): The teacher's.
            data_samples (Sequence[Any] | None): The batch's samples, which
                some losses need. Defaults to None.

        Returns:
            torch.Tensor: The weighted sum over the levels, a scalar.

        Raises:
            ValueError: If there are not ``num_levels`` maps, or a level's
                maps do not fit; says which level and suggests a fix.
        """
        self.check_pyramids(preds_S, preds_T)
        pairs = [(preds_S[level], preds_T[level]) for level in self.levels]
        if len(self.losses) < len(pairs):
            students = [
                self._connected(index, student)
                for index, (student, _) in enumerate(pairs)
            ]
            teachers = [teacher for _, teacher in pairs]
            total = self._call(0, students, teachers, data_samples)
        else:
            total = torch.stack(
                [
                    self.level_loss(index, *pair, data_samples)
                    for index, pair in enumerate(pairs)
                ]
            ).sum()
        return self.loss_weight * total

    def level_loss(  # type: ignore[override]
        self,
        index: int,
        student: torch.Tensor,
        teacher: torch.Tensor,
        data_samples: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """Computes the loss of a level on all images given.

        Args:
            index (int): Index of the level among those that are distilled.
            student (torch.Tensor): The student's map of shape (N, C, H, W).
            teacher (torch.Tensor): The teacher's.
            data_samples (Sequence[Any] | None): The images' samples. Defaults
                to None.

        Returns:
            torch.Tensor: The loss, a scalar.

        Raises:
            ValueError: If the maps do not fit.
        """
        student = self._connected(index, student)
        try:
            return self._call(index, student, teacher, data_samples)
        except ValueError as error:
            where = f'{type(self).__name__}, level {self.levels[index]}: '
            connector = channel_connector(student, teacher)
            if self.connectors is None and connector:
                raise ValueError(
                    f'{where}the maps have the shapes {describe(student)} '
                    f'and {describe(teacher)}. Add connector={connector}.'
                ) from error
            raise ValueError(f'{where}{error}') from error

    def check_pyramids(self, *pyramids: Sequence[torch.Tensor]) -> None:
        """Checks the numbers of levels of the two sides.

        Args:
            pyramids (Sequence[torch.Tensor]): The student's and the teacher's
                maps.

        Raises:
            ValueError: If one does not have ``num_levels`` maps.
        """
        for name, pyramid in zip(
            ('preds_S', 'preds_T'), pyramids, strict=True
        ):
            if len(as_levels(pyramid)) != self.num_levels:
                raise ValueError(
                    f'{type(self).__name__}: {name} is {describe(pyramid)}, '
                    f'not num_levels={self.num_levels} maps. Record all maps '
                    'of the neck, without data_idx in loss_forward_mappings, '
                    'and set num_levels to their number.'
                )

    def _connected(self, index: int, student: torch.Tensor) -> torch.Tensor:
        if self.connectors is None:
            return student
        return self.connectors[index](student)

    def _call(
        self,
        index: int,
        student: torch.Tensor | list[torch.Tensor],
        teacher: torch.Tensor | list[torch.Tensor],
        data_samples: Sequence[Any] | None,
    ) -> torch.Tensor:
        if self.takes_samples[index]:
            return self.losses[index](
                student, teacher, data_samples=data_samples
            )
        return self.losses[index](student, teacher)
