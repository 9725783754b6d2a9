_base_ = [
    '../../../_base_/pairs/gfl_x101-32x4d_gfl_r18_1x_coco.py',
    '../../../_base_/distillers/kd_gfl.py',
]
model = dict(distiller=_base_.distiller)
