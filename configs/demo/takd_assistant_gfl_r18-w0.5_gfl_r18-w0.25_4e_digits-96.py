# TAKD's first stage: the assistant, distilled from the teacher.
_base_ = [
    '../_base_/models/gfl_r18-w0.25_fpn_digits.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/adamw_4e.py',
    '../_base_/runtime/det_runtime.py',
    '../_base_/distillers/kd_gfl_small.py',
]
import mmengine

teacher = 'gfl_r18-w0.5_fpn_12e_digits-96'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../_base_/models/gfl_r18-w0.5_fpn_digits.py').model,
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
