_base_ = [
    '../../../_base_/pairs/faster-rcnn_r101_faster-rcnn_r50_1x_coco.py',
    '../../../_base_/distillers/reviewkd_fpn.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_reviewkd.loss_weight = 1.0
model = dict(distiller=distiller)
