_base_ = '../../students/mmpretrain/vgg8_240e_cub200.py'
import mmengine

teacher = 'vgg13_240e_cub200'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/vgg13_cub200.py').model,
    teacher_ckpt=f'stage://{teacher}')
