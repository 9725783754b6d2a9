"""VGG for images of 32 px."""

from collections.abc import Sequence

from mmpretrain.models.backbones.vgg import make_vgg_layer
from torch import nn

from kdvit_mm.models.backbones.staged import (
    BATCH_NORM,
    FAN_OUT_INIT,
    StagedBackbone,
)
from kdvit_mm.registry import MODELS

CHANNELS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class CIFARVGG(StagedBackbone):
    """VGG-8 and VGG-13 with batch norm for 32 px.

    Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale
    Image Recognition*, ICLR 2015, arXiv:1409.1556, as
    https://github.com/megvii-research/mdistiller has them at 32 px: three
    maxima by 2 in place of five, global pooling and one linear layer in place
    of three. The depth still counts three.

    ``conv1`` is the first group of convolutions, ``layer1`` to ``layer4`` are
    the others, each with the maximum before it, if any. The maps have 128,
    256, 512 and 512 channels at strides 2, 4, 8 and 8.

    Their parameters with a linear classifier of 100 classes, as counted on
    mdistiller's models:

    ======  =========
    VGG-8   3,965,028
    VGG-13  9,462,180
    ======  =========

    What a recorder takes by ``ModuleOutputs``, with ``k`` the last of the
    stage's modules, in ``layer4`` one less (VGG-8: 1 and 0, VGG-13: 2 and 1):

    - The map of stage i: ``backbone.layer{i}``.
    - The same before its ReLU (OFD, ReviewKD): ``backbone.layer{i}.{k}.bn``,
      which is also the batch norm of OFD's margin.

    Args:
        depth (int): Layers, 8 or 13.
        out_indices (Sequence[int]): Stages whose maps are returned, from 0.
            Defaults to (3, ).
        init_cfg (dict | list[dict] | None): How weights are initialised.
            Defaults to normal values by the fan-out.

    Raises:
        ValueError: If there is no such depth or stage.
    """

    def __init__(
        self,
        depth: int,
        out_indices: Sequence[int] = (3,),
        init_cfg: dict | list[dict] | None = FAN_OUT_INIT,
    ) -> None:
        if depth not in (8, 13):
            raise ValueError(
                f'CIFARVGG has no depth={depth}: take 8 or 13, with one or '
                'two convolutions in each of the five groups.'
            )
        groups = []
        before = 3
        for channels in CHANNELS:
            convs = make_vgg_layer(
                before, channels, depth // 6, norm_cfg=BATCH_NORM
            )
            groups.append(convs)
            before = channels
        stem, *pooled, last = (convs[:-1] for convs in groups)
        stages = [nn.Sequential(nn.MaxPool2d(2), *convs) for convs in pooled]
        stages.append(nn.Sequential(*last))
        super().__init__(nn.Sequential(*stem), stages, out_indices, init_cfg)
