_base_ = [
    '../../../_base_/pairs/faster-rcnn_x101-32x4d_faster-rcnn_rx18-32x4d_1x_coco.py',  # noqa: E501
    '../../../_base_/distillers/reviewkd_fpn.py',
]
model = dict(distiller=_base_.distiller)
