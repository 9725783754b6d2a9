# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/pspnet_r50_fcn_r18-w0.125_4k_camvid-160.py',
    '../_base_/distillers/kd_class_maps.py',
]
model = dict(distiller=_base_.distiller)
