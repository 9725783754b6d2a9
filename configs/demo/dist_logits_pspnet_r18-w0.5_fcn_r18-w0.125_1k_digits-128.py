_base_ = [
    '../_base_/pairs/pspnet_r18-w0.5_fcn_r18-w0.125_1k_digits-128.py',
    '../_base_/distillers/dist_logits.py',
]
model = dict(distiller=_base_.distiller)
