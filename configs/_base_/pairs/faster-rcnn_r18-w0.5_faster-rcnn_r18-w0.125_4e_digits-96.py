_base_ = [
    '../models/faster-rcnn_r18-w0.125_fpn_small.py',
    '../datasets/digits_detection.py',
    '../schedules/adamw_4e.py',
    '../runtime/det_runtime.py',
]
import mmengine

teacher = 'faster-rcnn_r18-w0.5_fpn_12e_digits-96'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/faster-rcnn_r18-w0.5_fpn_small.py').model,
    teacher_ckpt=f'stage://{teacher}')
