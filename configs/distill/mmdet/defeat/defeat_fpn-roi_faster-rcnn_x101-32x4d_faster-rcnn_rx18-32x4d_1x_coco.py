_base_ = [
    '../../../_base_/pairs/faster-rcnn_x101-32x4d_faster-rcnn_rx18-32x4d_1x_coco.py',  # noqa: E501
    '../../../_base_/distillers/defeat_fpn_roi.py',
]
model = dict(distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
