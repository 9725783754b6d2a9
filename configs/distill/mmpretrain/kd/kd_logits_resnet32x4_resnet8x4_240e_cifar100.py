# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_resnet8x4_240e_cifar100.py',
    '../../../_base_/distillers/kd_logits.py',
]
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=_base_.ce_weight))),
    distiller=_base_.distiller,
)
