# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/vgg13_vgg8_240e_cub200.py',
    '../../../_base_/distillers/sdd-nkd_regions.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_sdd.loss.gamma = 6
model = dict(distiller=distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
