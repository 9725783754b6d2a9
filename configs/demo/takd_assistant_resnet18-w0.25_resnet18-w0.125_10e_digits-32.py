# TAKD's first stage: the assistant, distilled from the teacher.
_base_ = [
    '../_base_/models/resnet18-w0.125_cifar_small.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/schedules/adamw_10e_batch-64.py',
    '../_base_/runtime/cls_runtime.py',
    '../_base_/distillers/kd_logits.py',
]
import mmengine

teacher = 'resnet18-w0.25_10e_digits-32'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../_base_/models/resnet18-w0.25_cifar_small.py'
    ).model,
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
