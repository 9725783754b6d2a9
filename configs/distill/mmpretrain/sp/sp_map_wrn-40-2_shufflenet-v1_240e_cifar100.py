# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_shufflenet-v1_240e_cifar100.py',
    '../../../_base_/distillers/sp_map.py',
]
model = dict(distiller=_base_.distiller)
