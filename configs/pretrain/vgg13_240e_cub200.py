# A teacher for CUB-200.
_base_ = [
    '../_base_/models/vgg13_cub200.py',
    '../_base_/datasets/cub200_classification.py',
    '../_base_/schedules/sgd_240e.py',
    '../_base_/runtime/cls_runtime.py',
]
