# The student whose depth and width are searched.
_base_ = [
    '../_base_/models/resnet8-w0.25_cifar_small.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/schedules/adamw_10e_batch-64.py',
    '../_base_/runtime/cls_runtime.py',
]
