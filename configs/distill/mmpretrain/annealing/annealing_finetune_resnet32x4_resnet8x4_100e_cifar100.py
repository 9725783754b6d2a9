# Written by tools/misc/generate_configs.py
_base_ = '../../../students/mmpretrain/resnet8x4_240e_cifar100.py'
load_from = 'stage://annealing_logits_resnet32x4_resnet8x4_240e_cifar100'
train_cfg = dict(max_epochs=100)
param_scheduler = dict(milestones=[50, 75])
