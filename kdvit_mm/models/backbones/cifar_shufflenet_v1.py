"""ShuffleNetV1 for images of 32 px."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmpretrain.models.utils import channel_shuffle
from torch import nn

from kdvit_mm.models.backbones.staged import (
    BATCH_NORM,
    TORCH_INIT,
    StagedBackbone,
    conv_bn_relu,
)
from kdvit_mm.registry import MODELS


class ShuffleUnit(nn.Module):
    """Grouped 1×1, depthwise 3×3 and grouped 1×1 convolution, and a shortcut.

    Args:
        in_channels (int): Channels of its input.
        out_channels (int): Channels of its output. If there are more than of
            the input, the unit halves the map and appends the pooled input.
        groups (int): Groups of the first convolution. The last has 3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int
    ) -> None:
        super().__init__()
        self.halves = out_channels != in_channels
        self.groups = groups
        new = out_channels - in_channels if self.halves else out_channels
        middle = new // 4
        self.conv1 = ConvModule(
            in_channels, middle, 1, groups=groups, norm_cfg=BATCH_NORM
        )
        self.conv2 = ConvModule(
            middle,
            middle,
            3,
            stride=2 if self.halves else 1,
            padding=1,
            groups=middle,
            norm_cfg=BATCH_NORM,
        )
        self.conv3 = ConvModule(
            middle, new, 1, groups=3, norm_cfg=BATCH_NORM, act_cfg=None
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        # Gives recorders the map before the ReLU.
        self.preact = nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the unit's map."""
        new = channel_shuffle(self.conv1(x), self.groups)
        new = self.conv3(self.conv2(new))
        out = torch.cat((new, self.pool(x)), 1) if self.halves else new + x
        return self.relu(self.preact(out))


@MODELS.register_module()
class CIFARShuffleNetV1(StagedBackbone):
    """ShuffleNetV1 with three groups for 32 px.

    Zhang et al., *ShuffleNet: An Extremely Efficient Convolutional Neural
    Network for Mobile Devices*, CVPR 2018, arXiv:1707.01083, as
    https://github.com/megvii-research/mdistiller has it: a 1×1 convolution
    to 24 channels as stem, no pooling after it, and a ReLU after the depthwise
    convolution. A unit's bottleneck has a quarter of the channels that the
    unit computes, where mmpretrain's ``ShuffleNetV1`` has a quarter of all
    that it puts out.

    ``layer1`` to ``layer3`` have 240, 480 and 960 channels at strides 2, 4
    and 8 (16, 8 and 4 px). With a linear classifier of 100 classes it has
    949,258 parameters, as counted on mdistiller's model.

    What a recorder takes by ``ModuleOutputs``, with ``k`` = 3, 7 and 3:

    - The map of stage i: ``backbone.layer{i}``.
    - The same before its ReLU (OFD, ReviewKD):
      ``backbone.layer{i}.{k}.preact``. No batch norm comes directly before
      it, so that it can be OFD's student, not its teacher.

    Args:
        large_images (bool): Whether the stem is a 7×7 convolution of stride
            2, as https://github.com/shicaiwei123/SDD-CVPR2024 has it for
            CUB-200 at 224 px. Defaults to False.
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
            Defaults to (2, ).
        init_cfg (dict | list[dict] | None): How weights are initialised.
            Defaults to torch's own way.

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(
        self,
        large_images: bool = False,
        out_indices: Sequence[int] = (2,),
        init_cfg: dict | list[dict] | None = TORCH_INIT,
    ) -> None:
        stages = []
        before = 24
        for channels, units in ((240, 4), (480, 8), (960, 4)):
            stages.append(
                nn.Sequential(
                    ShuffleUnit(before, channels, 1 if before == 24 else 3),
                    *(
                        ShuffleUnit(channels, channels, 3)
                        for _ in range(units - 1)
                    ),
                )
            )
            before = channels
        stem = (
            conv_bn_relu(3, 24, kernel=7, stride=2)
            if large_images
            else conv_bn_relu(3, 24)
        )
        super().__init__(stem, stages, out_indices, init_cfg)
