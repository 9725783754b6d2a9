_base_ = [
    '../../../_base_/pairs/pspnet_r101-d8_pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',  # noqa: E501
    '../../../_base_/distillers/at_features.py',
]
model = dict(distiller=_base_.distiller)
