# A ResNet-18 for 32 px of an eighth of the usual width.
_base_ = './resnet18-w0.0625_cifar_small.py'
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    head=dict(in_channels=64))
