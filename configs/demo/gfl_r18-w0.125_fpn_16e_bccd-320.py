# The student on blood cells: a ResNet-18 of an eighth of the width.
_base_ = './gfl_r18-w0.5_fpn_16e_bccd-320.py'
model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=48),
    bbox_head=dict(stacked_convs=1))
