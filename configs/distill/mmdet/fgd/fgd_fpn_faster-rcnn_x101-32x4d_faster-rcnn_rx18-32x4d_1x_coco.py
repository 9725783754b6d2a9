_base_ = [
    '../../../_base_/pairs/faster-rcnn_x101-32x4d_faster-rcnn_rx18-32x4d_1x_coco.py',  # noqa: E501
    '../../../_base_/distillers/fgd_fpn_two_stage.py',
]
model = dict(inherit=True, distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
