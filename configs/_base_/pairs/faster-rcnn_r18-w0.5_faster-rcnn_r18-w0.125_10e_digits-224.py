_base_ = '../../demo/faster-rcnn_r18-w0.125_fpn_10e_digits-224.py'
import mmengine

teacher = 'faster-rcnn_r18-w0.5_fpn_10e_digits-224'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        f'{{ fileDirname }}/../../demo/{teacher}.py').model,
    teacher_ckpt=f'stage://{teacher}')
