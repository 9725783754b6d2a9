"""Distillation on the levels that are chosen for each image."""

from collections.abc import Sequence
from typing import Any

import torch

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.registry import MODELS
from kdvit_mm.selection.controller import SelectionController
from kdvit_mm.selection.level_wise import MaskedLevelWise
from kdvit_mm.selection.plan import State


@MODELS.register_module()
class SelectedLevelsLoss(DistillLoss):
    """Distils each image on the pyramid levels that a selector chooses.

    With all levels chosen it is the sum of the levels' losses; see
    :class:`MaskedLevelWise`. The selector learns through
    :class:`LevelSelectionHook`, which also sets the phase and keeps the
    selector's parameters out of the student's optimiser.

    Args:
        selector (dict): Config of the :class:`LevelSelector`, without
            ``num_levels``.
        loss (dict | Sequence[dict]): Config of the loss of a level, such as
            ``dict(type='CWDLoss', loss_weight=10)``, or one config per level.
        num_levels (int): Number of levels, L.
        connector (dict | Sequence[dict] | None): Config of the student's
            connector of a level, or one config per level. Defaults to None.
        reward (dict | None): Config of the measure of what a level's
            distillation is worth. Defaults to None, :class:`AlignedReward`.
        grad_norm (dict | None): Config of :class:`GradNorm`, which balances
            the levels. Defaults to None.
        loss_weight (float): Weight of the sum. Defaults to 1.0.

    Raises:
        ValueError: If there is not one config per level, or the loss computes
            a whole pyramid; on loading, if the checkpoint is of an earlier
            version.
    """

    decides = True
    renamed_keys = {'level_loss': 'loss'}
    removed_keys = {
        'quality': "Write reward=dict(type='AlignedReward'), the default, or "
        "'MeasuredReward'.",
    }

    def __init__(
        self,
        selector: dict,
        loss: dict | Sequence[dict],
        num_levels: int,
        connector: dict | Sequence[dict] | None = None,
        reward: dict | None = None,
        grad_norm: dict | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        # First, so that the policy's draws do not depend on the losses.
        self.controller = SelectionController(
            num_levels, selector, reward, grad_norm
        )
        self.level_wise = MaskedLevelWise(loss, num_levels, connector)

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
        self.level_wise.check_pyramids(preds_S, preds_T)
        maps = preds_S, preds_T
        costs = self.level_wise.level_costs(*maps, data_samples)
        state = State(*maps, costs, data_samples)
        return self.loss_weight * self.controller.distil(
            self.level_wise, state
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        if f'{prefix}selector.step' in state_dict:
            raise ValueError(
                f'The checkpoint has a level selection of an earlier version '
                f'("{prefix}selector."), whose policies and losses have other '
                'weights now. Load its student alone '
                '(tools/model_converters/export_student.py), or train again.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
