# ESKD: the teacher as it was after 6 of 12 epochs, and no distillation from
# epoch 3 on.
_base_ = [
    '../_base_/pairs/gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py',
    '../_base_/distillers/kd_gfl_small.py',
]
teacher = 'eskd_teacher_gfl_r18-w0.5_fpn_12e_digits-96/epoch_6'
model = dict(
    teacher_ckpt=f'stage://{teacher}', distiller=_base_.distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='kdvit_mm.DistillScheduleHook',
        schedules=[dict(loss='loss_kd', type='stop', begin=3)]),
]
