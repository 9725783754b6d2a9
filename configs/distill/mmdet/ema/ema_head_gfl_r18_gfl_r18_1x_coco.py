# The teacher is the moving average of the student.
_base_ = [
    '../../../students/mmdet/gfl_r18_fpn_1x_coco.py',
    '../../../_base_/runtime/plugin.py',
    '../../../_base_/distillers/kd_gfl.py',
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
    dict(
        type='kdvit_mm.DistillScheduleHook',
        schedules=[
            dict(
                loss='loss_kd',
                type='linear',
                start_factor=0,
                begin=0,
                end=2)
        ]),
]
