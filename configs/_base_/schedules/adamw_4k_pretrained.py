# As adamw_4k.py, for a backbone that starts from ImageNet weights.
_base_ = './adamw_4k.py'
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
