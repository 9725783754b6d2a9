# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/pspnet_r50_fcn_r18-w0.125_4k_ccp-160.py',
    '../_base_/distillers/sp_features_small.py',
]
model = dict(distiller=_base_.distiller)
