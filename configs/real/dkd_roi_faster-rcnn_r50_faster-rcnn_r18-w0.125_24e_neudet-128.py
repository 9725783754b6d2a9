# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/faster-rcnn_r50_faster-rcnn_r18-w0.125_24e_neudet-128.py',
    '../_base_/distillers/dkd_roi_small.py',
]
model = dict(distiller=_base_.distiller)
