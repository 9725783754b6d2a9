# Written by tools/misc/generate_configs.py
_base_ = '../../../students/mmpretrain/resnet8x4_240e_cifar100.py'
load_from = 'stage://fsp_stages_resnet32x4_resnet8x4_30e_cifar100'
