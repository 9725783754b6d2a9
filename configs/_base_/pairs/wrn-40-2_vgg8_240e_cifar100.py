_base_ = '../../students/mmpretrain/vgg8_240e_cifar100.py'
import mmengine

teacher = 'wrn-40-2_240e_cifar100'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/wrn-40-2_cifar100.py').model,
    teacher_ckpt=f'stage://{teacher}')
