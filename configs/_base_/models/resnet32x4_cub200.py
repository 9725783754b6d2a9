_base_ = './classifier_cub200.py'
model = dict(
    backbone=dict(
        type='kdvit_mm.CIFARResNet',
        depth=32,
        stem_channels=32,
        base_channels=64,
        large_images=True),
    head=dict(in_channels=256, init_cfg=None))
