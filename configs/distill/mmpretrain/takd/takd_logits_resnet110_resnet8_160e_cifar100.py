# TAKD's second stage: the student, distilled from the assistant.
_base_ = [
    '../../../students/mmpretrain/resnet8_160e_cifar100.py',
    '../../../_base_/distillers/kd_logits.py',
]
import mmengine

teacher = 'takd_assistant_resnet110_resnet20_160e_cifar100/student'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=dict(
        _base_.model,
        head=dict(
            _base_.model.head,
            loss=dict(
                _base_.model.head.loss, loss_weight=_base_.ce_weight))),
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../../../_base_/models/resnet20_cifar100.py'
    ).model,
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
