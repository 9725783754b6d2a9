# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet50_mobilenet-v1_8xb32_in1k.py',
    '../../../_base_/distillers/dist_logits_cls.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_dist.tau = 1
model = dict(distiller=distiller)
