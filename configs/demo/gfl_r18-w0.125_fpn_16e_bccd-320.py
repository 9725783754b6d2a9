# The student on blood cells: a ResNet-18 of an eighth of the width.
_base_ = [
    '../_base_/models/gfl_r18-w0.125_fpn_bccd.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_16e.py',
    '../_base_/runtime/det_runtime.py',
]
