# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_shufflenet-v1_240e_cifar100.py',
    '../../../_base_/distillers/sdd-kd_regions.py',
]
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=_base_.ce_weight))),
    distiller=_base_.distiller,
)
