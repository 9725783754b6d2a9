# The teacher of the segmentation demo: half the usual width.
_base_ = [
    '../_base_/models/pspnet_r18-w0.5-d8_small.py',
    '../_base_/datasets/digits_segmentation.py',
    '../_base_/runtime/seg_runtime.py',
    '../_base_/schedules/adamw_1k.py',
]
