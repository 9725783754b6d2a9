# The student of the demo: an eighth of the usual width.
_base_ = './gfl_r18-w0.5_fpn_small.py'
model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64]),
    bbox_head=dict(stacked_convs=1))
