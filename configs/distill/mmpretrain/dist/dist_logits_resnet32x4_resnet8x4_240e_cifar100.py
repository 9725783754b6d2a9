# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_resnet8x4_240e_cifar100.py',
    '../../../_base_/distillers/dist_logits_cls.py',
]
model = dict(distiller=_base_.distiller)
