# BYOT for a segmentor: its head teaches class maps of earlier stages.
_base_ = [
    './fcn_r18-w0.125-d8_1k_digits-128.py',
    '../_base_/distillers/byot_class_maps_small.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='SelfDistill',
    architecture=_base_.model,
    distiller=_base_.distiller)
