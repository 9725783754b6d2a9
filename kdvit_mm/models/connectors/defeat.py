"""The adapter of DeFeat."""

import torch
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from torch import nn

from kdvit_mm.registry import MODELS


@MODELS.register_module()
class DeFeatAdapter(BaseConnector):
    """A 3×3 convolution that starts near zero.

    Jianyuan Guo et al.: Distilling Object Detectors via Decoupled Features.
    CVPR 2021, arXiv:2103.14475. Official code:
    https://github.com/ggjy/DeFeat.pytorch.

    The weights start normally distributed, the remainder of a division by 2,
    times 1e-4.

    Args:
        in_channel (int): Channels of the student's map, C_S.
        out_channel (int): Channels of the teacher's map, C_T.
        init_cfg (dict | None): As in mmengine's ``BaseModule``. Defaults to
            None.
    """

    def __init__(
        self,
        in_channel: int,
        out_channel: int,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(in_channel, out_channel, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.normal_().fmod_(2).mul_(1e-4)

    def forward_train(self, feature: torch.Tensor) -> torch.Tensor:
        """Adapts the student's map.

        Args:
            feature (torch.Tensor): The student's map, of shape
                (N, C_S, H, W).

        Returns:
            torch.Tensor: The adapted map, of shape (N, C_T, H, W).

        Raises:
            ValueError: If the map has not ``in_channel`` channels.
        """
        if feature.size(1) != self.conv.in_channels:
            raise ValueError(
                f'DeFeatAdapter: the map has shape {tuple(feature.shape)}, '
                f'in_channel is {self.conv.in_channels}. Set '
                f'in_channel={feature.size(1)}.'
            )
        # A half-precision record outside autocast.
        dtype = torch.promote_types(feature.dtype, self.conv.weight.dtype)
        return self.conv(feature.to(dtype))
