# ESKD: no distillation in the last 4 of 12 epochs.
_base_ = [
    '../../../_base_/pairs/gfl_r101_gfl_r18_1x_coco.py',
    '../../../_base_/distillers/kd_gfl.py',
]
model = dict(distiller=_base_.distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='kdvit_mm.DistillScheduleHook',
        schedules=[dict(loss='loss_kd', type='stop', begin=8)]),
]
