# The teacher on clothing: PSPNet on a ResNet-50 with ImageNet weights.
_base_ = [
    '../_base_/models/pspnet_r50-d8_ccp.py',
    '../_base_/datasets/ccp_segmentation.py',
    '../_base_/schedules/adamw_4k_pretrained.py',
    '../_base_/runtime/seg_runtime.py',
]
