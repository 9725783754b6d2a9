# The teacher of TAKD's paper.
_base_ = [
    '../_base_/models/resnet110_cifar100.py',
    '../_base_/datasets/cifar100_classification.py',
    '../_base_/schedules/sgd_160e.py',
    '../_base_/runtime/cls_runtime.py',
]
train_dataloader = dict(batch_size=128)
# TAKD's authors take the best weights of each network.
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
