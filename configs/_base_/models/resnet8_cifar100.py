_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARResNet', depth=8),
    head=dict(in_channels=64, init_cfg=None))
