# The teacher of the demo: half the usual width.
_base_ = './gfl_r18_fpn_small.py'
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=48),
    bbox_head=dict(in_channels=48, feat_channels=48, stacked_convs=2))
