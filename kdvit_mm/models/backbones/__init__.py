"""Backbones that the task packages lack."""

from importlib.util import find_spec

__all__ = []

# They are made of mmpretrain's parts.
if find_spec('mmpretrain'):
    from kdvit_mm.models.backbones.cifar_mobilenet_v2 import CIFARMobileNetV2
    from kdvit_mm.models.backbones.cifar_resnet import CIFARResNet
    from kdvit_mm.models.backbones.cifar_shufflenet_v1 import CIFARShuffleNetV1
    from kdvit_mm.models.backbones.cifar_shufflenet_v2 import CIFARShuffleNetV2
    from kdvit_mm.models.backbones.cifar_vgg import CIFARVGG
    from kdvit_mm.models.backbones.cifar_wide_resnet import CIFARWideResNet
    from kdvit_mm.models.backbones.mobilenet_v1 import MobileNetV1
    from kdvit_mm.models.backbones.resnext18 import ResNeXt18

    __all__ += [
        'CIFARVGG',
        'CIFARMobileNetV2',
        'CIFARResNet',
        'CIFARShuffleNetV1',
        'CIFARShuffleNetV2',
        'CIFARWideResNet',
        'MobileNetV1',
        'ResNeXt18',
    ]
