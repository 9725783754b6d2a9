_base_ = [
    '../../../_base_/pairs/segformer_mit-b4_segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',  # noqa: E501
    '../../../_base_/distillers/at_features.py',
]
model = dict(distiller=_base_.distiller)
