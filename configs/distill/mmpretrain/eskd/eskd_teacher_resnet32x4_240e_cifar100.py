# The teacher with the checkpoints of every 20 epochs.
_base_ = [
    '../../../_base_/models/resnet32x4_cifar100.py',
    '../../../_base_/datasets/cifar100_classification.py',
    '../../../_base_/schedules/sgd_240e.py',
    '../../../_base_/runtime/cls_runtime.py',
]
default_hooks = dict(checkpoint=dict(interval=20, max_keep_ckpts=-1))
