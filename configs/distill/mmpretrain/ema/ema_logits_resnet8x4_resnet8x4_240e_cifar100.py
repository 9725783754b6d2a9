# The teacher is the moving average of the student.
_base_ = [
    '../../../students/mmpretrain/resnet8x4_240e_cifar100.py',
    '../../../_base_/distillers/ema_logits.py',
]
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
    dict(type='kdvit_mm.EMATeacherHook', momentum=0.001),
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
