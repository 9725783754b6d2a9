# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_mobilenet-v2_240e_cifar100.py',
    '../../../_base_/distillers/sdd-lskd-dkd_regions.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_sdd.scales = [1]
model = dict(distiller=distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
