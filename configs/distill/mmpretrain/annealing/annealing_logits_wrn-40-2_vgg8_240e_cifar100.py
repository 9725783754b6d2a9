# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_vgg8_240e_cifar100.py',
    '../../../_base_/distillers/annealing_logits.py',
]
model = dict(
    calculate_student_loss=_base_.calculate_student_loss,
    distiller=_base_.distiller,
)
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
