_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(
        type='mmpretrain.ResNet_CIFAR', depth=50, zero_init_residual=False),
    head=dict(in_channels=2048, init_cfg=None))
