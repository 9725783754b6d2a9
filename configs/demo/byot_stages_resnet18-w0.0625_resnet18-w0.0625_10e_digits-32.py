# BYOT: the last stage teaches classifiers behind the others.
_base_ = [
    './resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/byot_stages_small.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='SelfDistill',
    architecture=_base_.model,
    distiller=_base_.distiller)
