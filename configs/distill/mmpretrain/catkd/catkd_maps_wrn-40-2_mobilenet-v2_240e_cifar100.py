# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_mobilenet-v2_240e_cifar100.py',
    '../../../_base_/distillers/catkd_maps.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_catkd.normalise = True
distiller.distill_losses.loss_catkd.loss_weight = 40
model = dict(distiller=distiller)
