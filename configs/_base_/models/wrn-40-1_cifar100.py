_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARWideResNet', depth=40, widen_factor=1),
    head=dict(in_channels=64, init_cfg=None))
