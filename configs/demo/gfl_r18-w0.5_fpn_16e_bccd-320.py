# The teacher on blood cells: a ResNet-18 of half the usual width.
_base_ = [
    '../_base_/models/gfl_r18-w0.5_fpn_bccd.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_16e.py',
    '../_base_/runtime/det_runtime.py',
]
