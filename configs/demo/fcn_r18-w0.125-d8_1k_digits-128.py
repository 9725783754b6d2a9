# The student of the segmentation demo: an eighth of the usual width.
_base_ = [
    '../_base_/models/fcn_r18-w0.125-d8_small.py',
    '../_base_/datasets/digits_segmentation.py',
    '../_base_/runtime/seg_runtime.py',
    '../_base_/schedules/adamw_1k.py',
]
