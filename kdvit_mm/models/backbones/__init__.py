"""Backbones that the task packages lack."""

from importlib.util import find_spec

__all__ = []

# It is mmpretrain's ResNeXt in another depth.
if find_spec('mmpretrain'):
    from kdvit_mm.models.backbones.resnext18 import ResNeXt18

    __all__ += ['ResNeXt18']
