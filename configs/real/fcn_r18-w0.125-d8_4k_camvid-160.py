# The student on streets: FCN on a ResNet-18 of an eighth of the width.
_base_ = [
    '../_base_/models/fcn_r18-w0.125-d8_camvid.py',
    '../_base_/datasets/camvid_segmentation-160x120.py',
    '../_base_/schedules/adamw_4k.py',
    '../_base_/runtime/seg_runtime.py',
]
