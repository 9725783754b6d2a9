_base_ = [
    '../../../_base_/pairs/faster-rcnn_r101_faster-rcnn_r50_1x_coco.py',
    '../../../_base_/distillers/defeat_fpn_roi.py',
]
model = dict(distiller=_base_.distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
