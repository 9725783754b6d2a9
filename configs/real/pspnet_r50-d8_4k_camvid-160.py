# The teacher on streets: PSPNet on a ResNet-50 with ImageNet weights.
_base_ = [
    '../_base_/models/pspnet_r50-d8_camvid.py',
    '../_base_/datasets/camvid_segmentation-160x120.py',
    '../_base_/schedules/adamw_4k_pretrained.py',
    '../_base_/runtime/seg_runtime.py',
]
