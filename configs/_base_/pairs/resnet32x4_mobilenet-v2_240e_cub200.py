_base_ = '../../students/mmpretrain/mobilenet-v2_240e_cub200.py'
import mmengine

teacher = 'resnet32x4_240e_cub200'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/resnet32x4_cub200.py').model,
    teacher_ckpt=f'stage://{teacher}')
