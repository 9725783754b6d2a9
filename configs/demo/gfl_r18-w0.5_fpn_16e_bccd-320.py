# The teacher on blood cells: a ResNet-18 of half the usual width.
_base_ = [
    '../_base_/models/gfl_r18_fpn_small.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_10e.py',
    '../_base_/runtime/det_runtime.py',
]
max_epochs = 16
train_cfg = dict(max_epochs=max_epochs, val_interval=8)
param_scheduler = [
    dict(
        type='mmengine.LinearLR',
        start_factor=0.01,
        by_epoch=False,
        begin=0,
        end=50),
    dict(
        type='mmengine.CosineAnnealingLR',
        by_epoch=True,
        T_max=max_epochs,
        eta_min_ratio=0.01,
        convert_to_iter_based=True),
]
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=48),
    bbox_head=dict(
        num_classes=3, in_channels=48, feat_channels=48, stacked_convs=2))
