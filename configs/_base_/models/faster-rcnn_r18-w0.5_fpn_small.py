# Faster R-CNN on a ResNet-18 of half the usual width.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
fpn_channels = 48
model = dict(
    _scope_='mmdet',
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=fpn_channels),
    rpn_head=dict(
        in_channels=fpn_channels,
        feat_channels=fpn_channels,
        anchor_generator=dict(scales=[4])),  # objects from 10 px on
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=fpn_channels, finest_scale=28),
        bbox_head=dict(
            in_channels=fpn_channels, fc_out_channels=128, num_classes=10)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
