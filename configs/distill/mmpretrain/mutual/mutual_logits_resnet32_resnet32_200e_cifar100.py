# Deep mutual learning of two ResNet-32.
_base_ = [
    '../../../students/mmpretrain/resnet32_200e_cifar100.py',
    '../../../_base_/distillers/mutual_logits.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='MutualDistill',
    architecture=_base_.model,
    peers=dict(peer=_base_.model),
    distiller=_base_.distiller)
optim_wrapper = dict(constructor='kdvit_mm.EachStudentConstructor')
val_cfg = dict(type='kdvit_mm.EachStudentValLoop')
