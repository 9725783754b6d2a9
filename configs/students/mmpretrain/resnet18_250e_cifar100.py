# With the schedule of the code of BYOT's journal version, without its
# AutoAugment and Cutout.
_base_ = [
    '../../_base_/models/resnet18_cifar100.py',
    '../../_base_/datasets/cifar100_classification.py',
    '../../_base_/schedules/sgd_240e.py',
    '../../_base_/runtime/cls_runtime.py',
]
train_cfg = dict(max_epochs=250)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(milestones=[83, 166, 240])
auto_scale_lr = dict(base_batch_size=128)
