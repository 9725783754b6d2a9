# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/vgg13_vgg8_240e_cub200.py',
    '../../../_base_/distillers/sdd-kd_regions.py',
]
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=_base_.ce_weight))),
    distiller=_base_.distiller,
)
