_base_ = [
    '../../../_base_/pairs/retinanet_x101-64x4d-ms-3x_retinanet_r50_2x_coco.py',  # noqa: E501
    '../../../_base_/distillers/mgd_fpn.py',
]
model = dict(inherit=True, distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
