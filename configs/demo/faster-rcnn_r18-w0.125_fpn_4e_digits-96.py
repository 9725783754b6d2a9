# The two-stage student on digit scenes: an eighth of the usual width.
_base_ = [
    '../_base_/models/faster-rcnn_r18-w0.125_fpn_small.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/adamw_4e.py',
    '../_base_/runtime/det_runtime.py',
]
