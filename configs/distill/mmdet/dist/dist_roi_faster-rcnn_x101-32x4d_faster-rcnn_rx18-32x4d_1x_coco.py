_base_ = [
    '../../../_base_/pairs/faster-rcnn_x101-32x4d_faster-rcnn_rx18-32x4d_1x_coco.py',
    '../../../_base_/distillers/dist_roi.py',
]
model = dict(distiller=_base_.distiller)
