# TAKD's second stage: the student, distilled from the assistant.
_base_ = [
    '../_base_/pairs/gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py',
    '../_base_/distillers/kd_gfl_small.py',
]
import mmengine

teacher = 'takd_assistant_gfl_r18-w0.5_gfl_r18-w0.25_4e_digits-96/student'
model = dict(
    teacher=dict(
        _delete_=True,
        **mmengine.Config.fromfile(
            '{{ fileDirname }}/../_base_/models/gfl_r18-w0.25_fpn_digits.py'
        ).model),
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
