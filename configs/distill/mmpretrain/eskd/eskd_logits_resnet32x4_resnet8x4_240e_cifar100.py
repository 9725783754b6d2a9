# ESKD: the teacher as it was after 120 of 240 epochs, and no distillation in
# the second half.
_base_ = [
    '../../../_base_/pairs/resnet32x4_resnet8x4_240e_cifar100.py',
    '../../../_base_/distillers/eskd_logits.py',
]
teacher = 'eskd_teacher_resnet32x4_240e_cifar100/epoch_120'
model = dict(
    teacher_ckpt=f'stage://{teacher}', distiller=_base_.distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
