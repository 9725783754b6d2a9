_base_ = [
    '../models/resnet18-w0.0625_cifar_small.py',
    '../datasets/cifar10_classification_small.py',
    '../schedules/adamw_24e_batch-64.py',
    '../runtime/cls_runtime.py',
]
import mmengine

teacher = 'resnet18-w0.25_24e_cifar10-32'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/resnet18-w0.25_cifar_small.py').model,
    teacher_ckpt=f'stage://{teacher}')
