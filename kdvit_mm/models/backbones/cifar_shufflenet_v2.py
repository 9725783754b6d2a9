"""ShuffleNetV2 for images of 32 px."""

from collections.abc import Sequence

import torch
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from mmpretrain.models.utils import channel_shuffle
from torch import nn

from kdvit_mm.models.backbones.staged import (
    TORCH_INIT,
    StagedBackbone,
    conv_bn_relu,
)
from kdvit_mm.registry import MODELS


class ShuffleUnit(InvertedResidual):
    """mmpretrain's unit of stride 1, with its map before the last ReLU.

    Args:
        channels (int): Channels of its input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        # Gives recorders the map before the ReLU.
        self.preact = nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the unit's map."""
        kept, new = x.chunk(2, dim=1)
        new = self.branch2[1](self.branch2[0](new))
        new = self.branch2[2](new, activate=False)
        # What is kept has been through a ReLU; another one changes nothing.
        out = self.relu(self.preact(torch.cat((kept, new), 1)))
        return channel_shuffle(out, 2)


@MODELS.register_module()
class CIFARShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 1x for 32 px.

    Ma et al., *ShuffleNet V2: Practical Guidelines for Efficient CNN
    Architecture Design*, ECCV 2018, arXiv:1807.11164, as
    https://github.com/megvii-research/mdistiller has it: mmpretrain's network
    with a 1×1 convolution to 24 channels as stem and no pooling after it.

    ``layer1`` to ``layer3`` have 116, 232 and 464 channels at strides 2, 4
    and 8 (16, 8 and 4 px). ``layer4`` is the convolution to 1024 channels
    before the pooling. With a linear classifier of 100 classes it has
    1,355,528 parameters, as counted on mdistiller's model.

    What a recorder takes by ``ModuleOutputs``, with ``k`` = 3, 7 and 3:

    - The map of stage i: ``backbone.layer{i}``.
    - The same before its ReLU (OFD, ReviewKD):
      ``backbone.layer{i}.{k}.preact``. Its channels are not yet shuffled, and
      half of them have been through an earlier ReLU, as in mdistiller. No
      batch norm comes directly before it, so that it can be OFD's student,
      not its teacher.

    Args:
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
            Defaults to (3, ), what is pooled.
        init_cfg (dict | list[dict] | None): How weights are initialised.
            Defaults to torch's own way.

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (3,),
        init_cfg: dict | list[dict] | None = TORCH_INIT,
    ) -> None:
        stages = []
        before = 24
        for channels, units in ((116, 4), (232, 8), (464, 4)):
            stages.append(
                nn.Sequential(
                    InvertedResidual(before, channels, stride=2),
                    *(ShuffleUnit(channels) for _ in range(units - 1)),
                )
            )
            before = channels
        stages.append(conv_bn_relu(before, 1024))
        super().__init__(conv_bn_relu(3, 24), stages, out_indices, init_cfg)
