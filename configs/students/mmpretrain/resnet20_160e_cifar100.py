# TAKD's assistant.
_base_ = [
    '../../_base_/models/resnet20_cifar100.py',
    '../../_base_/datasets/cifar100_classification.py',
    '../../_base_/schedules/sgd_160e.py',
    '../../_base_/runtime/cls_runtime.py',
]
train_dataloader = dict(batch_size=128)
