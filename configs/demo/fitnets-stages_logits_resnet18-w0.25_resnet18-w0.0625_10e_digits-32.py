# FitNets' second stage: KD, from the student that has learned the hint.
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/fitnets_logits.py',
]
schedules = [dict(_base_.schedules[0], end=10)]
model = dict(distiller=_base_.distiller)
load_from = 'stage://fitnets-stages_hint_resnet18-w0.25_resnet18-w0.0625_2e_digits-32/student'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=schedules),
]
