# The assistant of the demo: a quarter of the usual width.
_base_ = './gfl_r18-w0.5_fpn_digits.py'
model = dict(
    backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
