# With the schedule of deep mutual learning's paper.
_base_ = [
    '../../_base_/models/resnet32_cifar100.py',
    '../../_base_/datasets/cifar100_classification.py',
    '../../_base_/schedules/sgd_240e.py',
    '../../_base_/runtime/cls_runtime.py',
]
train_cfg = dict(max_epochs=200)
optim_wrapper = dict(optimizer=dict(lr=0.1, nesterov=True))
param_scheduler = dict(milestones=[60, 120, 180])
