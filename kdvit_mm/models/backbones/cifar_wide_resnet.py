"""Wide ResNet for images of 32 px."""

from collections.abc import Sequence

import torch
from torch import nn

from kdvit_mm.models.backbones.staged import FAN_OUT_INIT, StagedBackbone
from kdvit_mm.registry import MODELS


class PreActBlock(nn.Module):
    """Two 3×3 convolutions, each after a batch norm and a ReLU.

    Args:
        in_channels (int): Channels of its input.
        out_channels (int): Channels of its output.
        stride (int): Stride of the first convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(
            in_channels, out_channels, 3, stride, padding=1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(
            out_channels, out_channels, 3, padding=1, bias=False
        )
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            None
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block's map, which no ReLU has cut."""
        activated = self.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(activated)
        return x + self.conv2(self.relu(self.bn2(self.conv1(activated))))


@MODELS.register_module()
class CIFARWideResNet(StagedBackbone):
    """Wide ResNet, such as WRN-16-2, WRN-40-1 and WRN-40-2, for 32 px.

    Zagoruyko and Komodakis, *Wide Residual Networks*, BMVC 2016,
    arXiv:1605.07146, as https://github.com/megvii-research/mdistiller has
    them. ``layer1`` to ``layer3`` are stages of (depth − 4) / 6 blocks with
    16 k, 32 k and 64 k channels at strides 1, 2 and 4. ``layer4`` is the
    batch norm and the ReLU before the pooling.

    Their parameters with a linear classifier of 100 classes, as counted on
    mdistiller's models:

    ========  =========
    WRN-16-2    703,284
    WRN-40-1    569,780
    WRN-40-2  2,255,156
    ========  =========

    What a recorder takes by ``ModuleOutputs``:

    - The map of stage i: ``backbone.layer{i}``. It is a sum, which no ReLU
      has cut, and the input of a batch norm.
    - The same after this batch norm and before the ReLU (OFD, ReviewKD):
      ``backbone.layer2.0.bn1``, ``backbone.layer3.0.bn1`` and
      ``backbone.layer4.0``, which are also the batch norms of OFD's margin.
      mdistiller calls the batch norms a second time for these maps and so
      updates a student's statistics twice per step; here it is once.

    Args:
        depth (int): Layers, 6 n + 4.
        widen_factor (int): The factor k of the channels.
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
            Defaults to (3, ), what is pooled.
        init_cfg (dict | list[dict] | None): How weights are initialised.
            Defaults to normal values by the fan-out.

    Raises:
        ValueError: If there is no such depth or stage.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        out_indices: Sequence[int] = (3,),
        init_cfg: dict | list[dict] | None = FAN_OUT_INIT,
    ) -> None:
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(
                f'CIFARWideResNet has no depth={depth}: take 6 n + 4, such as '
                '16, 28 or 40.'
            )
        stages = []
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            stage = nn.Sequential()
            for index in range(blocks):
                stage.append(
                    PreActBlock(
                        channels,
                        width * widen_factor,
                        1 if index else stride,
                    )
                )
                channels = width * widen_factor
            stages.append(stage)
        stages.append(
            nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        )
        stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        super().__init__(stem, stages, out_indices, init_cfg)
