# The student on clothing: FCN on a ResNet-18 of an eighth of the width.
_base_ = [
    '../_base_/models/fcn_r18-w0.125-d8_ccp.py',
    '../_base_/datasets/ccp_segmentation.py',
    '../_base_/schedules/adamw_4k.py',
    '../_base_/runtime/seg_runtime.py',
]
