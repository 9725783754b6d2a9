_base_ = [
    '../../../_base_/pairs/gfl_x101-32x4d_gfl_r18_1x_coco.py',
    '../../../_base_/distillers/defeat_fpn.py',
]
model = dict(distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
