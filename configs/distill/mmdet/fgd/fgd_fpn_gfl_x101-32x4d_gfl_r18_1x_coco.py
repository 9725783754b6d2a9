# The FPNs take maps of other channels, so only the heads are inherited.
_base_ = [
    '../../../_base_/pairs/gfl_x101-32x4d_gfl_r18_1x_coco.py',
    '../../../_base_/distillers/fgd_fpn.py',
]
model = dict(inherit=('bbox_head', ), distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
