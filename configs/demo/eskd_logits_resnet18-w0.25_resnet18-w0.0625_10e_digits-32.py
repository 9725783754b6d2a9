# ESKD: the teacher as it was after 6 of 10 epochs, and no distillation from
# epoch 7 on.
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/eskd_logits.py',
]
teacher = 'eskd_teacher_resnet18-w0.25_10e_digits-32/epoch_6'
schedules = [dict(_base_.schedules[0], begin=7)]
model = dict(
    teacher_ckpt=f'stage://{teacher}', distiller=_base_.distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=schedules),
]
