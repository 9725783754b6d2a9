# The teacher of the classification demo: a quarter of the usual width.
_base_ = [
    '../_base_/models/resnet18-w0.25_cifar_small.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/schedules/adamw_10e_batch-64.py',
    '../_base_/runtime/cls_runtime.py',
]
