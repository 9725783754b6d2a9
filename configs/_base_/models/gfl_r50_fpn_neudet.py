_base_ = ['./gfl_r18-w0.5_fpn_small.py', './resnet50_caffe.py']
model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=[256, 512, 1024, 2048]),
    bbox_head=dict(num_classes=6))
