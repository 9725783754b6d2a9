_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARWideResNet', depth=40, widen_factor=2),
    head=dict(in_channels=128, init_cfg=None))
