_base_ = [
    '../../../_base_/pairs/gfl_x101-32x4d_gfl_rx18-32x4d_1x_coco.py',
    '../../../_base_/distillers/mgd_fpn.py',
]
model = dict(inherit=True, distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
