# The teacher on blood cells: a ResNet-18 of half the usual width.
_base_ = [
    '../_base_/models/gfl_r18_fpn_small.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_16e.py',
    '../_base_/runtime/det_runtime.py',
]
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=48),
    bbox_head=dict(
        num_classes=3, in_channels=48, feat_channels=48, stacked_convs=2))
