# The teacher of the detection demo: a ResNet-18 of half the usual width.
_base_ = [
    '../_base_/models/gfl_r18-w0.5_fpn_digits.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime/det_runtime.py',
]
