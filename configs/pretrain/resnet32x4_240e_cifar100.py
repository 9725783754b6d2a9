# A teacher for CIFAR-100.
_base_ = [
    '../_base_/models/resnet32x4_cifar100.py',
    '../_base_/datasets/cifar100_classification.py',
    '../_base_/schedules/sgd_240e.py',
    '../_base_/runtime/cls_runtime.py',
]
