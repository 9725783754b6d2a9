_base_ = [
    '../../../_base_/pairs/deeplabv3_r101-d8_deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',  # noqa: E501
    '../../../_base_/distillers/kd_class_maps.py',
]
model = dict(distiller=_base_.distiller)
