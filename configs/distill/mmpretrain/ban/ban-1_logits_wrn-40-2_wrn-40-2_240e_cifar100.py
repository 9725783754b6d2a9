# The first generation of born-again networks.
_base_ = [
    '../../../_base_/models/wrn-40-2_cifar100.py',
    '../../../_base_/datasets/cifar100_classification.py',
    '../../../_base_/schedules/sgd_240e.py',
    '../../../_base_/runtime/cls_runtime.py',
    '../../../_base_/distillers/ban_logits.py',
]
teacher = 'wrn-40-2_240e_cifar100'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=_base_.model,
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
# All generations start from weights of their own.
randomness = dict(seed=1)
