"""ResNet of three stages for images of 32 px."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR
from torch import nn

from kdvit_mm.registry import MODELS


@MODELS.register_module()
class CIFARResNet(ResNet_CIFAR):
    """ResNet-8, -20, -32, -56, -110, -8x4 and -32x4 for 32 px.

    The ResNets of section 4.2 in He et al., *Deep Residual Learning for Image
    Recognition*, CVPR 2016, arXiv:1512.03385, as
    https://github.com/megvii-research/mdistiller has them: three stages of
    (depth − 2) / 6 basic blocks, and a 1×1 convolution in a shortcut that
    changes the shape. mmpretrain's ``ResNet_CIFAR`` has the four stages of
    the ImageNet networks in their place.

    The maps have ``base_channels`` times 1, 2 and 4 channels at strides 1, 2
    and 4. ResNet-8x4 and -32x4 are the plans of depth 8 and 32 with
    ``stem_channels=32`` and ``base_channels=64``.

    Their parameters with a linear classifier of 100 classes, as counted on
    mdistiller's models:

    ===========  =========
    ResNet-8x4   1,233,540
    ResNet-32x4  7,433,860
    ResNet-20      278,324
    ResNet-56      861,620
    ResNet-110   1,736,564
    ===========  =========

    What a recorder takes, with n blocks in a stage:

    - The map of stage i: ``ModuleOutputs`` of ``backbone.layer{i}``.
    - The same before its ReLU (OFD, ReviewKD): ``ModuleInputs`` of
      ``backbone.layer{i}.{n-1}.relu`` with ``record_idx=1`` and
      ``data_idx=0``. The block calls its ReLU twice.
    - The batch norm before that (OFD's margin):
      ``backbone.layer{i}.{n-1}.bn2``.

    Args:
        depth (int): Layers, 6 n + 2.
        stem_channels (int): Channels of the stem. Defaults to 16.
        base_channels (int): Channels of the first stage. Defaults to 16.
        large_images (bool): Whether the stem is a 7×7 convolution of stride
            2, as https://github.com/shicaiwei123/SDD-CVPR2024 has it for
            CUB-200 at 224 px. Defaults to False.
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
            Defaults to (2, ).
        **kwargs (Any): Others of mmpretrain's ``ResNet_CIFAR``.

    Raises:
        ValueError: If there is no such depth.
    """

    def __init__(
        self,
        depth: int,
        stem_channels: int = 16,
        base_channels: int = 16,
        large_images: bool = False,
        out_indices: Sequence[int] = (2,),
        **kwargs: Any,
    ) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(
                f'CIFARResNet has no depth={depth}: take 6 n + 2, such as 8, '
                '20, 32, 56 or 110.'
            )
        self.large_images = large_images
        self.arch_settings = {depth: (BasicBlock, (blocks,) * 3)}
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=out_indices,
            zero_init_residual=False,
            **kwargs,
        )

    def _make_stem_layer(self, in_channels: int, base_channels: int) -> None:
        super()._make_stem_layer(in_channels, base_channels)
        if self.large_images:
            self.conv1 = nn.Conv2d(
                in_channels, base_channels, 7, 2, padding=3, bias=False
            )
