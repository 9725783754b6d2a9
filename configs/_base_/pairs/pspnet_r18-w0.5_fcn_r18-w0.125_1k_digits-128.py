_base_ = [
    '../models/fcn_r18-w0.125-d8_small.py',
    '../datasets/digits_segmentation.py',
    '../runtime/seg_runtime.py',
    '../schedules/adamw_1k.py',
]
import mmengine

teacher = 'pspnet_r18-w0.5-d8_1k_digits-128'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/pspnet_r18-w0.5-d8_small.py').model,
    teacher_ckpt=f'stage://{teacher}')
