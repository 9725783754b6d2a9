# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/vgg13_mobilenet-v2_240e_cub200.py',
    '../../../_base_/distillers/sdd-kd_regions.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_sdd.scales = [1, 2]
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=_base_.ce_weight))),
    distiller=distiller,
)
