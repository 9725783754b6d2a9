_base_ = [
    '../_base_/pairs/pspnet_r18-w0.5_fcn_r18-w0.125_1k_digits-128.py',
    '../_base_/distillers/mgd_layer4_logits_small.py',
]
model = dict(distiller=_base_.distiller)
