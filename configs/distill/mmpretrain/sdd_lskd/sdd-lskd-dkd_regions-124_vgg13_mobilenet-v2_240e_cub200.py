# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/vgg13_mobilenet-v2_240e_cub200.py',
    '../../../_base_/distillers/sdd-lskd-dkd_regions.py',
]
model = dict(distiller=_base_.distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
