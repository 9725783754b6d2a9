# FitNets' second stage: KD, from the student that has learned the hint.
_base_ = [
    '../../../_base_/pairs/resnet32x4_resnet8x4_240e_cifar100.py',
    '../../../_base_/distillers/fitnets_logits.py',
]
model = dict(distiller=_base_.distiller)
load_from = 'stage://fitnets-stages_hint_resnet32x4_resnet8x4_30e_cifar100/student'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
