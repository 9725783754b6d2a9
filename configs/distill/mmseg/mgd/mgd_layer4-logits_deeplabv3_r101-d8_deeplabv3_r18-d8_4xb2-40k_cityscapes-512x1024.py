_base_ = [
    '../../../_base_/pairs/deeplabv3_r101-d8_deeplabv3_r18-d8_4xb2-40k_cityscapes-512x1024.py',  # noqa: E501
    '../../../_base_/distillers/mgd_layer4_logits.py',
]
model = dict(distiller=_base_.distiller)
