# The FPNs take maps of other channels, so only the heads are inherited.
_base_ = [
    '../../../_base_/pairs/faster-rcnn_x101-32x4d_faster-rcnn_r18_1x_coco.py',
    '../../../_base_/distillers/fgd_fpn_two_stage.py',
]
model = dict(inherit=('rpn_head', 'roi_head'), distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
