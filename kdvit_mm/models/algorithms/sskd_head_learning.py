"""SSKD's first stage: learning the self-supervised head of the teacher."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.algorithms import BaseAlgorithm
from torch import nn

from kdvit_mm.models.losses.base import as_levels
from kdvit_mm.models.losses.relation.sskd import (
    check_views,
    own_images,
    projection_head,
    view_similarities,
)
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class SSKDHeadLearning(BaseAlgorithm):
    """Trains a head that finds the image of which a view is a rotation.

    The loss is the cross-entropy of a rotated view's similarities with all
    images of the batch. The teacher is frozen and in eval mode; what it
    predicts stays its own. The checkpoint is the ``head_ckpt`` of
    :class:`~kdvit_mm.models.losses.SSKDLoss`. The data preprocessor has to be
    a ``RotatedViewsDataPreprocessor``.

    Paper: Xu, Liu, Li and Loy, *Knowledge Distillation Meets
    Self-Supervision*, ECCV 2020, arXiv:2006.07114. Official code:
    https://github.com/xuguodong03/SSKD, which trains it for 60 epochs of
    batches of 64 images with SGD, learning rate 0.05, a tenth of it from
    epochs 30 and 45 on.

    Args:
        architecture (dict | BaseModel): The teacher; its weights come from
            its own ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        channels (int): Channels of the teacher's features.
        source (str): Name of the module whose output is the features, of
            shape (N, channels). Defaults to 'neck'.
        data_preprocessor (dict | nn.Module | None): As in ``BaseAlgorithm``.
            Defaults to None, the teacher's.
        init_cfg (dict | None): As in ``BaseAlgorithm``. Defaults to None.

    Raises:
        ValueError: If the teacher has no module ``source`` or, at the first
            step, ``channels`` does not fit its features or the batch has no
            rotated views.
    """

    def __init__(
        self,
        architecture: dict | BaseModel,
        channels: int,
        source: str = 'neck',
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if isinstance(architecture, dict):
            architecture = in_own_scope(architecture)
        super().__init__(architecture, data_preprocessor, init_cfg)
        self.architecture.requires_grad_(False)
        self.proj_head = projection_head(channels)
        modules = dict(self.architecture.named_modules())
        if source not in modules:
            raise ValueError(
                f'SSKDHeadLearning: the teacher has no module "{source}"; '
                f'set source to one such as {[*modules][1:6]}.'
            )
        self._features: Any = None
        modules[source].register_forward_hook(self._keep)
        self.train()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._features = output

    def train(self, mode: bool = True) -> 'SSKDHeadLearning':
        """Sets the mode of the head; the teacher stays in eval mode."""
        super().train(mode)
        self.architecture.eval()
        return self

    def loss(
        self,
        batch_inputs: torch.Tensor,
        data_samples: list[BaseDataElement] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Computes the cross-entropy of the views' similarities.

        Args:
            batch_inputs (torch.Tensor): Images of shape (4N, C, H, W).
            data_samples (list[BaseDataElement] | None): Their samples, each
                with its ``view``. Defaults to None, which is an error.

        Returns:
            dict[str, torch.Tensor]: ``loss_views`` and ``accuracy_views``,
            the share of views whose image is found, in percent.
        """
        check_views('SSKDHeadLearning', data_samples, len(batch_inputs))
        with torch.no_grad():
            self.architecture(batch_inputs, mode='tensor')
        features, self._features = as_levels(self._features), None
        wanted = len(batch_inputs), self.proj_head[0].in_features
        if len(features) != 1 or features[0].shape != wanted:
            raise ValueError(
                f'SSKDHeadLearning: the features are {describe(features)}, '
                f'but channels makes them {wanted}. Set channels to those of '
                'the features, and source to a module after the pooling, such '
                'as "neck".'
            )
        with torch.autocast(batch_inputs.device.type, enabled=False):
            embedded = self.proj_head(features[0].float())
            similarities = view_similarities(embedded)
        targets = own_images(similarities)
        found = similarities.argmax(1) == targets
        return {
            'loss_views': F.cross_entropy(similarities, targets),
            'accuracy_views': 100 * found.float().mean(),
        }
