# The two-stage teacher on digit scenes: a ResNet-18 of half the usual width.
_base_ = [
    '../_base_/models/faster-rcnn_r18-w0.5_fpn_small.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime/det_runtime.py',
]
