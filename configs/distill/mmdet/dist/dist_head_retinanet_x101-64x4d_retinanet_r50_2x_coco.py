_base_ = [
    '../../../_base_/pairs/retinanet_x101-64x4d_retinanet_r50_2x_coco.py',
    '../../../_base_/distillers/dist_gfl.py',
]
model = dict(distiller=_base_.distiller)
