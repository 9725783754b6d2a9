# The teacher on steel: GFL on a ResNet-50 with ImageNet weights.
_base_ = [
    '../_base_/models/gfl_r50_fpn_neudet.py',
    '../_base_/datasets/neudet_detection.py',
    '../_base_/schedules/adamw_24e_pretrained.py',
    '../_base_/runtime/det_runtime.py',
]
