"""FreeKD's first stage: learning the frequency prompts on the teacher."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.algorithms import BaseAlgorithm
from torch import nn

from kdvit_mm.models.losses.feature.freekd import FrequencyPrompt, as_maps
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class FreeKDPromptLearning(BaseAlgorithm):
    """Fine-tunes a teacher whose maps pass through frequency prompts.

    The maps of module ``source`` are replaced by what
    :class:`FrequencyPrompt` makes of them, in training and in testing, and
    the overlap of the tokens' masks is added to the teacher's own losses. The
    checkpoint is the ``prompt_ckpt`` of :class:`FreeKDLoss`. The released
    code has the module of this stage but not its training; what is held fixed
    is left to ``optim_wrapper.paramwise_cfg``.

    Paper: Zhang, Huang, Liu, Jiang, Zhang, *FreeKD: Knowledge Distillation
    via Semantic Frequency Prompt*, CVPR 2024, arXiv:2311.12079.

    Args:
        architecture (dict | BaseModel): The teacher; its weights come from
            its own ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        channels (Sequence[int]): Channels of each map.
        num_tokens (int): Tokens of a band. Defaults to 2.
        source (str): Name of the module whose output, a tuple of maps or one
            map, is passed through the prompts. Defaults to 'neck'.
        overlap_weight (float): Weight of the overlap. Defaults to 1.0.
        data_preprocessor (dict | nn.Module | None): As in ``BaseAlgorithm``.
            Defaults to None, the teacher's.
        init_cfg (dict | None): As in ``BaseAlgorithm``. Defaults to None.

    Raises:
        ValueError: If the teacher has no module ``source`` or, at the first
            step, ``channels`` does not fit its maps.
    """

    def __init__(
        self,
        architecture: dict | BaseModel,
        channels: Sequence[int],
        num_tokens: int = 2,
        source: str = 'neck',
        overlap_weight: float = 1.0,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if isinstance(architecture, dict):
            architecture = in_own_scope(architecture)
        super().__init__(architecture, data_preprocessor, init_cfg)
        self.mask_modules = nn.ModuleList(
            FrequencyPrompt(c, num_tokens) for c in channels
        )
        self.overlap_weight = overlap_weight
        self._overlap = torch.zeros(())
        modules = dict(self.architecture.named_modules())
        if source not in modules:
            raise ValueError(
                f'FreeKDPromptLearning: the teacher has no module "{source}"; '
                f'set source to one such as {[*modules][1:6]}.'
            )
        modules[source].register_forward_hook(self._prompt)

    def _prompt(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        maps = as_maps(type(self).__name__, output, self.mask_modules)
        prompted, overlaps = zip(
            *(
                prompt(x)
                for x, prompt in zip(maps, self.mask_modules, strict=True)
            ),
            strict=True,
        )
        self._overlap = torch.stack(overlaps).sum()
        # The head counts on maps of the size that they had.
        prompted = tuple(
            y[..., : x.size(2), : x.size(3)]
            for x, y in zip(maps, prompted, strict=True)
        )
        return prompted[0] if isinstance(output, torch.Tensor) else prompted

    def loss(
        self,
        batch_inputs: torch.Tensor,
        data_samples: list[BaseDataElement] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Computes the teacher's losses and the overlap of the masks.

        Args:
            batch_inputs (torch.Tensor): Images of shape (N, C, H, W).
            data_samples (list[BaseDataElement] | None): The batch's samples.
                Defaults to None.

        Returns:
            dict[str, torch.Tensor]: The teacher's losses and
            ``loss_overlap``, a scalar.
        """
        losses = self.architecture(batch_inputs, data_samples, mode='loss')
        losses['loss_overlap'] = self.overlap_weight * self._overlap
        return losses
