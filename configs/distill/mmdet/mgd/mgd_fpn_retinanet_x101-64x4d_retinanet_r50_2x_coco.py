_base_ = [
    '../../../_base_/pairs/retinanet_x101-64x4d_retinanet_r50_2x_coco.py',
    '../../../_base_/distillers/mgd_fpn.py',
]
model = dict(inherit=True, distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
