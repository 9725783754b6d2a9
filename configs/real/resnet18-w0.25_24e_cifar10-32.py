# The teacher on a part of CIFAR-10.
_base_ = [
    '../_base_/models/resnet18-w0.25_cifar_small.py',
    '../_base_/datasets/cifar10_classification_small.py',
    '../_base_/schedules/adamw_24e_batch-64.py',
    '../_base_/runtime/cls_runtime.py',
]
