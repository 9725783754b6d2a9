"""Records what a DETR predicts for its matching queries."""

from typing import Any

from mmrazor.models.task_modules.recorder.module_outputs_recorder import (
    ModuleOutputsRecorder,
)
from torch import nn

from kdvit_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class MatchingQueriesRecorder(ModuleOutputsRecorder):
    """Leaves out the denoising queries that only a training DETR has.

    DINO (Zhang et al., ICLR 2023, arXiv:2203.03605) puts a varying number of
    denoising queries before its matching queries while it trains. The teacher,
    in eval mode, has none, so that student and teacher have a different number
    of queries. In a config it is ``dict(type='kdvit_mm.MatchingQueries',
    source='bbox_head.cls_branches.5')``, for both.

    Args:
        source (str): Name of a module of the decoder or the head that returns
            one tensor of shape (N, Q, C).
    """

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Listens to the module.

        Args:
            model (nn.Module | None): The detector, or several by name.

        Raises:
            ValueError: If it has no module ``source`` or no queries.
        """
        super().prepare_from_model(model)
        assert model is not None
        detector = getattr(model, self.source.partition('.')[0])
        for owner in (model, detector):
            queries = getattr(owner, 'num_queries', None)
            if queries:
                self.num_queries: int = queries
                return
        raise ValueError(
            f'MatchingQueries: {type(model).__name__} has no num_queries. '
            "Record it with type='ModuleOutputs'."
        )

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: Any
    ) -> None:
        """Saves the last ``num_queries`` queries of the output.

        Args:
            module (nn.Module): The module.
            inputs (tuple): Its inputs.
            outputs (torch.Tensor): Its output, of shape (N, Q, C).
        """
        if self.recording:
            self.data_buffer.append(outputs[:, -self.num_queries :])
