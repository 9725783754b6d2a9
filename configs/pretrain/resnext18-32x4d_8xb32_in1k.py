# ImageNet pre-training of ResNeXt-18, by mmpretrain's recipe for ResNeXt-50.
_base_ = [
    'mmpretrain::resnext/resnext50-32x4d_8xb32_in1k.py',
    '../_base_/runtime/plugin.py',
]
model = dict(backbone=dict(_delete_=True, type='kdvit_mm.ResNeXt18'))
