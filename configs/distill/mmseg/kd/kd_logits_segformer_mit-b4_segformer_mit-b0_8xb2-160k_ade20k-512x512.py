_base_ = [
    '../../../_base_/pairs/segformer_mit-b4_segformer_mit-b0_8xb2-160k_ade20k-512x512.py',  # noqa: E501
    '../../../_base_/distillers/kd_class_maps.py',
]
model = dict(distiller=_base_.distiller)
