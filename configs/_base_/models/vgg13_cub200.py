_base_ = './classifier_cub200.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARVGG', depth=13),
    head=dict(in_channels=512))
