"""What the small networks for 32 px have in common."""

from collections.abc import Sequence

import torch
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import nn

BATCH_NORM = {'type': 'BN'}
FAN_OUT_INIT = {'type': 'Kaiming', 'layer': 'Conv2d'}
# How torch itself initialises a convolution, and mmcv's ConvModule does not.
TORCH_INIT = {
    'type': 'Kaiming',
    'layer': 'Conv2d',
    'a': 5**0.5,
    'mode': 'fan_in',
    'nonlinearity': 'leaky_relu',
    'distribution': 'uniform',
}


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1
) -> nn.Sequential:
    """A convolution with batch norm and ReLU.

    Unlike mmcv's ConvModule it leaves its initialisation to the backbone.
    """
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class StagedBackbone(BaseBackbone):
    """A stem and stages, one after another.

    Args:
        conv1 (nn.Module): The stem.
        stages (Sequence[nn.Module]): The stages, which become ``layer1``,
            ``layer2`` and so on.
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
        init_cfg (dict | list[dict] | None): How weights are initialised.

    Raises:
        ValueError: If there is no stage of an index.
    """

    def __init__(
        self,
        conv1: nn.Module,
        stages: Sequence[nn.Module],
        out_indices: Sequence[int],
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg)
        if not set(out_indices) <= set(range(len(stages))):
            raise ValueError(
                f'{type(self).__name__} has no stage for each of '
                f'out_indices={tuple(out_indices)}: take them from 0 to '
                f'{len(stages) - 1}.'
            )
        self.out_indices = out_indices
        self.conv1 = conv1
        self.stages = [f'layer{i + 1}' for i in range(len(stages))]
        for name, stage in zip(self.stages, stages, strict=True):
            self.add_module(name, stage)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes the maps of the stages.

        Args:
            images (torch.Tensor): Normalised images of shape (N, 3, H, W).

        Returns:
            tuple[torch.Tensor, ...]: Maps of the stages of ``out_indices``.
        """
        x = self.conv1(images)
        maps = []
        for index, name in enumerate(self.stages):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)
