# YOLOX of half of nano's width.
_base_ = './yolox_nano_coco.py'
model = dict(
    backbone=dict(widen_factor=0.125, norm_eval=False),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32))
