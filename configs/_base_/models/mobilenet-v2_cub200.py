_base_ = './classifier_cub200.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARMobileNetV2', large_images=True),
    head=dict(in_channels=1280))
