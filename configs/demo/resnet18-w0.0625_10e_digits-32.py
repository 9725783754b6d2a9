# The student of the classification demo: a sixteenth of the usual width.
_base_ = [
    '../_base_/models/resnet18_cifar_small.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/schedules/adamw_10e.py',
    '../_base_/runtime/cls_runtime.py',
]
auto_scale_lr = dict(base_batch_size=64)
