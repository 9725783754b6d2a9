# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/gfl_r50_gfl_r18-w0.125_24e_neudet-128.py',
    '../_base_/distillers/ld_gfl_small.py',
]
model = dict(distiller=_base_.distiller)
