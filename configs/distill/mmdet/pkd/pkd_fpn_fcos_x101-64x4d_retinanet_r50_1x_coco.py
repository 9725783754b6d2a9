_base_ = [
    '../../../_base_/pairs/fcos_x101-64x4d_retinanet_r50_1x_coco.py',
    '../../../_base_/distillers/pkd_fpn.py',
]
model = dict(distiller=_base_.distiller)
