_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARShuffleNetV2'),
    head=dict(in_channels=1024, init_cfg=None))
