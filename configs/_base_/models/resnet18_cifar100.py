# mmpretrain's ResNet-18 for 32 px, of four stages.
_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, out_indices=(3, )),
    head=dict(in_channels=512))
