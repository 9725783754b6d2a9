# BYOT: the last stage teaches classifiers behind the others.
_base_ = [
    '../../../students/mmpretrain/resnet18_250e_cifar100.py',
    '../../../_base_/distillers/byot_stages.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='SelfDistill',
    architecture=_base_.model,
    distiller=_base_.distiller)
