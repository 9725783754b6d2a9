_base_ = './classifier_cub200.py'
model = dict(
    backbone=dict(type='kdvit_mm.CIFARShuffleNetV1', large_images=True),
    head=dict(in_channels=960, init_cfg=None))
