_base_ = [
    '../models/fcn_r18-w0.125-d8_ccp.py',
    '../datasets/ccp_segmentation.py',
    '../schedules/adamw_4k.py',
    '../runtime/seg_runtime.py',
]
import mmengine

teacher = 'pspnet_r50-d8_4k_ccp-160'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/pspnet_r50-d8_ccp.py').model,
    teacher_ckpt=f'stage://{teacher}')
