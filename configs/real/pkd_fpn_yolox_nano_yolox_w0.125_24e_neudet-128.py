# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/yolox_nano_yolox_w0.125_24e_neudet-128.py',
    '../_base_/distillers/pkd_pafpn_small.py',
]
model = dict(distiller=_base_.distiller)
