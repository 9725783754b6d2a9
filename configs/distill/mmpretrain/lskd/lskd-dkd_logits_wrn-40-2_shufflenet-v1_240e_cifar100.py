# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_shufflenet-v1_240e_cifar100.py',
    '../../../_base_/distillers/lskd-dkd_logits.py',
]
model = dict(distiller=_base_.distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
