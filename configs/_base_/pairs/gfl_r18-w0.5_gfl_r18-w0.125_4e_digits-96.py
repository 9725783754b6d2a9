_base_ = [
    '../models/gfl_r18-w0.125_fpn_digits.py',
    '../datasets/digits_detection.py',
    '../schedules/adamw_4e.py',
    '../runtime/det_runtime.py',
]
import mmengine

teacher = 'gfl_r18-w0.5_fpn_12e_digits-96'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/gfl_r18-w0.5_fpn_digits.py').model,
    teacher_ckpt=f'stage://{teacher}')
