_base_ = ['./faster-rcnn_r18-w0.5_fpn_small.py', './resnet50_caffe.py']
model = dict(
    backbone=dict(
        _base_.backbone,
        init_cfg=dict(_base_.backbone.init_cfg, _delete_=True)),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
    roi_head=dict(bbox_head=dict(num_classes=6)))
