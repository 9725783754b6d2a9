# The two-stage student on blood cells: an eighth of the usual width.
_base_ = './faster-rcnn_r18-w0.5_fpn_16e_bccd-320.py'
model = dict(
    backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))
