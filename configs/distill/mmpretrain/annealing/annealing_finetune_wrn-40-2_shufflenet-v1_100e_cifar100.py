# Written by tools/misc/generate_configs.py
_base_ = '../../../students/mmpretrain/shufflenet-v1_240e_cifar100.py'
load_from = 'stage://annealing_logits_wrn-40-2_shufflenet-v1_240e_cifar100'
train_cfg = dict(max_epochs=100)
param_scheduler = dict(milestones=[50, 75])
