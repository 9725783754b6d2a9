_base_ = [
    '../../../_base_/pairs/deeplabv3_r101-d8_deeplabv3_r18-d8_4xb4-80k_ade20k-512x512.py',  # noqa: E501
    '../../../_base_/distillers/dist_logits.py',
]
model = dict(distiller=_base_.distiller)
