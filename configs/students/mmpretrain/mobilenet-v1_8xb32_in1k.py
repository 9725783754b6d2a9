# MobileNetV1 by mmpretrain's recipe for ResNet-50.
_base_ = [
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    '../../_base_/runtime/plugin.py',
]
model = dict(
    backbone=dict(_delete_=True, type='kdvit_mm.MobileNetV1'),
    head=dict(in_channels=1024))
