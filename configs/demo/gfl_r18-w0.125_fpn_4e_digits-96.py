# The student of the detection demo: a ResNet-18 of an eighth of the width.
_base_ = [
    '../_base_/models/gfl_r18-w0.125_fpn_digits.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/adamw_4e.py',
    '../_base_/runtime/det_runtime.py',
]
