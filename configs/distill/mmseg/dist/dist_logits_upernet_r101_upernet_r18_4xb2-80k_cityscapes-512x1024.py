_base_ = [
    '../../../_base_/pairs/upernet_r101_upernet_r18_4xb2-80k_cityscapes-512x1024.py',  # noqa: E501
    '../../../_base_/distillers/dist_logits.py',
]
model = dict(distiller=_base_.distiller)
