_base_ = [
    '../_base_/pairs/gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py',
    '../_base_/distillers/dist_gfl_small.py',
]
model = dict(distiller=_base_.distiller)
