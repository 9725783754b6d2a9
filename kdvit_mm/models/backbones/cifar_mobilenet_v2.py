"""MobileNetV2 for images of 32 px."""

from collections.abc import Sequence

from mmpretrain.models.backbones.mobilenet_v2 import InvertedResidual
from torch import nn

from kdvit_mm.models.backbones.staged import (
    FAN_OUT_INIT,
    StagedBackbone,
    conv_bn_relu,
)
from kdvit_mm.registry import MODELS

RELU = {'type': 'ReLU'}
# Channels, blocks and first stride of the groups of blocks in each stage.
STAGES = (
    ((12, 2, 1),),
    ((16, 3, 2),),
    ((32, 4, 2), (48, 3, 1)),
    ((80, 3, 2), (160, 1, 1)),
)


@MODELS.register_module()
class CIFARMobileNetV2(StagedBackbone):
    """MobileNetV2 of half the width for 32 px.

    Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*,
    CVPR 2018, arXiv:1801.04381, as https://github.com/megvii-research/mdistiller
    has it: ReLU in place of ReLU6, channels not rounded to multiples of 8,
    stride 1 in the group of 24 channels, a 1×1 convolution also in the first
    block, which expands nothing.

    ``conv1`` halves the image. ``layer1`` to ``layer4`` are all blocks of a
    size, with 12, 16, 48 and 160 channels at strides 2, 4, 8 and 16 (16, 8, 4
    and 2 px). ``layer5`` is the convolution to 1280 channels before the
    pooling. With a linear classifier of 100 classes it has 812,836
    parameters, as counted on mdistiller's model.

    What a recorder takes: by ``ModuleOutputs`` of ``backbone.layer{i}`` the
    map of stage i. It is a linear bottleneck's, which no ReLU has cut, so
    that it serves methods that want a map before the ReLU (OFD, ReviewKD) as
    it is.

    Args:
        large_images (bool): Whether the stem is a 7×7 convolution of stride
            2 and a maximum by 2, as
            https://github.com/shicaiwei123/SDD-CVPR2024 has it for CUB-200 at
            224 px. Defaults to False.
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
            Defaults to (4, ), what is pooled.
        init_cfg (dict | list[dict] | None): How weights are initialised.
            Defaults to normal values by the fan-out.

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(
        self,
        large_images: bool = False,
        out_indices: Sequence[int] = (4,),
        init_cfg: dict | list[dict] | None = FAN_OUT_INIT,
    ) -> None:
        # mmpretrain's block leaves out the convolution that does not expand.
        # There is no shortcut around the two.
        first = nn.Sequential(
            conv_bn_relu(16, 16),
            InvertedResidual(16, 8, 1, expand_ratio=1, act_cfg=RELU),
        )
        stages: list[nn.Module] = []
        before = 8
        for groups in STAGES:
            stage = nn.Sequential() if stages else nn.Sequential(first)
            for channels, blocks, stride in groups:
                group = nn.Sequential()
                for index in range(blocks):
                    group.append(
                        InvertedResidual(
                            before,
                            channels,
                            1 if index else stride,
                            expand_ratio=6,
                            act_cfg=RELU,
                        )
                    )
                    before = channels
                stage.append(group)
            stages.append(stage)
        stem = conv_bn_relu(3, 16, kernel=7 if large_images else 3, stride=2)
        if large_images:
            stem.append(nn.MaxPool2d(2))
        super().__init__(
            stem,
            [*stages, conv_bn_relu(before, 1280)],
            out_indices,
            init_cfg,
        )
