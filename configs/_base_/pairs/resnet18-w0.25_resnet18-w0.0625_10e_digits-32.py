_base_ = '../../demo/resnet18-w0.0625_10e_digits-32.py'
import mmengine

teacher = 'resnet18-w0.25_10e_digits-32'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        f'{{ fileDirname }}/../../demo/{teacher}.py').model,
    teacher_ckpt=f'stage://{teacher}')
