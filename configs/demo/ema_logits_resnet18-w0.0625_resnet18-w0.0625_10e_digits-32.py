# The teacher is the moving average of the student.
_base_ = [
    './resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/ema_logits.py',
]
schedules = [dict(_base_.schedules[0], end=2)]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=_base_.model,
    teacher_in_checkpoint=True,
    distiller=_base_.distiller)
custom_hooks = [
    *_base_.custom_hooks,
    # An average over a fifth of an epoch, which has 94 iterations.
    dict(type='kdvit_mm.EMATeacherHook', momentum=0.05),
    dict(type='kdvit_mm.DistillScheduleHook', schedules=schedules),
]
