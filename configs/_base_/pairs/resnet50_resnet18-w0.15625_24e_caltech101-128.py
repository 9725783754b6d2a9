_base_ = [
    '../models/resnet18-w0.15625_caltech101.py',
    '../datasets/caltech101_classification.py',
    '../schedules/adamw_24e_batch-64.py',
    '../runtime/cls_runtime.py',
]
import mmengine

teacher = 'resnet50_24e_caltech101-128'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/resnet50_caltech101.py').model,
    teacher_ckpt=f'stage://{teacher}')
