_base_ = [
    '../_base_/pairs/faster-rcnn_r18-w0.5_faster-rcnn_r18-w0.125_4e_digits-96.py',
    '../_base_/distillers/dkd_roi_small.py',
]
model = dict(distiller=_base_.distiller)
