_base_ = './classifier_cifar100.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARMobileNetV2'),
    head=dict(in_channels=1280))
