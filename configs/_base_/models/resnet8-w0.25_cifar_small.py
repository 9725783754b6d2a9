# A ResNet-8 of three stages for 32 px, of a quarter of the usual width.
_base_ = './resnet18-w0.0625_cifar_small.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='kdvit_mm.CIFARResNet',
        depth=8,
        base_channels=4,
        stem_channels=4),
    head=dict(in_channels=16))
