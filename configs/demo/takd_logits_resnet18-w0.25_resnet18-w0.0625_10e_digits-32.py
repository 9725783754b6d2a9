# TAKD's second stage: the student, distilled from the assistant.
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/kd_logits.py',
]
import mmengine

teacher = 'takd_assistant_resnet18-w0.25_resnet18-w0.125_10e_digits-32/student'
model = dict(
    teacher=dict(
        _delete_=True,
        **mmengine.Config.fromfile(
            '{{ fileDirname }}/../_base_/models/resnet18-w0.125_cifar_small.py'
        ).model),
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
