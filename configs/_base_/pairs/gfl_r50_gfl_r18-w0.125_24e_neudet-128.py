_base_ = [
    '../models/gfl_r18-w0.125_fpn_neudet.py',
    '../datasets/neudet_detection.py',
    '../schedules/adamw_24e.py',
    '../runtime/det_runtime.py',
]
import mmengine

teacher = 'gfl_r50_fpn_24e_neudet-128'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/gfl_r50_fpn_neudet.py').model,
    teacher_ckpt=f'stage://{teacher}')
