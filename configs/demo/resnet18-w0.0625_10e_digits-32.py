# The student of the classification demo: a sixteenth of the usual width.
_base_ = [
    '../_base_/models/resnet18-w0.0625_cifar_small.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/schedules/adamw_10e_batch-64.py',
    '../_base_/runtime/cls_runtime.py',
]
