"""ResNeXt with the stage plan of ResNet-18."""

from typing import Any

from mmpretrain.models.backbones.resnext import Bottleneck, ResNeXt

from kdvit_mm.registry import MODELS


@MODELS.register_module()
class ResNeXt18(ResNeXt):
    """ResNeXt-18 32x4d, the small relative of ResNeXt-101 32x4d.

    Xie et al., *Aggregated Residual Transformations for Deep Neural Networks*,
    CVPR 2017, arXiv:1611.05431, without a network of this size. It has the
    paper's blocks in the stages (2, 2, 2, 2) of ResNet-18. A block is a 1×1
    convolution to w channels, a 3×3 convolution in 32 groups and a 1×1
    convolution to 2 w channels, each with batch norm, around a shortcut; w is
    128, 256, 512 and 1024 in the four stages, 4 to 32 channels per group. The
    maps have 256, 512, 1024 and 2048 channels at strides 4, 8, 16 and 32, as
    those of ResNet-50. Counted by convolutions on the longest path it is 26
    layers deep, which is why pytorchcv calls the same network ResNeXt-26.

    As a backbone it has 13,340,480 parameters and takes 2.469 G multiply-adds
    at 224×224 and 50.381 G at 1280×800; as a classifier of 1000 classes
    15,389,480 and 2.471 G. ResNet-18 has 11,689,512 and 1.814 G.

    It is mmpretrain's network and serves mmdet's and mmseg's models too, with
    weights under the same keys. None under these keys are public:
    ``configs/pretrain/resnext18-32x4d_8xb32_in1k.py`` trains them.

    Args:
        **kwargs (Any): Those of mmpretrain's ``ResNeXt`` but ``depth``. In a
            detector these are ``out_indices=(0, 1, 2, 3)`` in place of (3, ),
            ``frozen_stages`` and ``norm_eval``.
    """

    arch_settings = {18: (Bottleneck, (2, 2, 2, 2))}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(depth=18, **kwargs)
