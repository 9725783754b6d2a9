_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(
        type='kdvit_mm.CIFARResNet',
        depth=8,
        stem_channels=32,
        base_channels=64),
    head=dict(in_channels=256, init_cfg=None))
