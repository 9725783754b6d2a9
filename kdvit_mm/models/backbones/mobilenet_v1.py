"""MobileNetV1."""

from collections.abc import Sequence

from mmcv.cnn import DepthwiseSeparableConvModule
from torch import nn

from kdvit_mm.models.backbones.staged import (
    BATCH_NORM,
    FAN_OUT_INIT,
    StagedBackbone,
    conv_bn_relu,
)
from kdvit_mm.registry import MODELS

# Channels of the stages and their numbers of blocks, of which the first
# halves the map.
STAGES = ((128, 2), (256, 2), (512, 6), (1024, 2))


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """MobileNetV1, the student of ResNet-50 in most papers on ImageNet.

    Howard et al., *MobileNets: Efficient Convolutional Neural Networks for
    Mobile Vision Applications*, 2017, arXiv:1704.04861, as
    https://github.com/megvii-research/mdistiller has it; mmpretrain has none.

    ``conv1`` is the stem with the first separable convolution, of 64
    channels at stride 2. ``layer1`` to ``layer4`` have 128, 256, 512 and 1024
    channels at strides 4, 8, 16 and 32. With a linear classifier of 1000
    classes it has 4,231,976 parameters.

    What a recorder takes by ``ModuleOutputs``, with ``k`` = 1, 1, 5 and 1:

    - The map of stage i: ``backbone.layer{i}``.
    - The same before its ReLU (OFD, ReviewKD):
      ``backbone.layer{i}.{k}.pointwise_conv.bn``, which is also the batch
      norm of OFD's margin.

    Args:
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
            Defaults to (3, ).
        init_cfg (dict | list[dict] | None): How weights are initialised.
            Defaults to normal values by the fan-out.

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (3,),
        init_cfg: dict | list[dict] | None = FAN_OUT_INIT,
    ) -> None:
        stages: list[nn.Module] = []
        before = 64
        for channels, blocks in STAGES:
            stage = nn.Sequential()
            for index in range(blocks):
                stage.append(
                    DepthwiseSeparableConvModule(
                        before,
                        channels,
                        3,
                        stride=1 if index else 2,
                        padding=1,
                        norm_cfg=BATCH_NORM,
                    )
                )
                before = channels
            stages.append(stage)
        stem = nn.Sequential(
            conv_bn_relu(3, 32, kernel=3, stride=2),
            DepthwiseSeparableConvModule(
                32, 64, 3, padding=1, norm_cfg=BATCH_NORM
            ),
        )
        super().__init__(stem, stages, out_indices, init_cfg)
