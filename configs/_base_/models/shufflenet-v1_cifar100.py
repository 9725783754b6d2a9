_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARShuffleNetV1'),
    head=dict(in_channels=960, init_cfg=None))
