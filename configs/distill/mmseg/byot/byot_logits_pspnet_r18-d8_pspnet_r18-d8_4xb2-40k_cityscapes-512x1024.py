# BYOT for a segmentor: its head teaches class maps of earlier stages.
_base_ = [
    '../../../students/mmseg/pspnet_r18-d8_4xb2-40k_cityscapes-512x1024.py',
    '../../../_base_/runtime/plugin.py',
    '../../../_base_/distillers/byot_class_maps.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='SelfDistill',
    architecture=_base_.model,
    distiller=_base_.distiller)
