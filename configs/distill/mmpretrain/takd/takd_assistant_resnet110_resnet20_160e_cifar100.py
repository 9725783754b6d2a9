# TAKD's first stage: the assistant, distilled from the teacher.
_base_ = [
    '../../../students/mmpretrain/resnet20_160e_cifar100.py',
    '../../../_base_/distillers/kd_logits.py',
]
import mmengine

teacher = 'resnet110_160e_cifar100'
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
        '{{ fileDirname }}/../../../_base_/models/resnet110_cifar100.py'
    ).model,
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
# As the authors do, the best weights are taken.
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
