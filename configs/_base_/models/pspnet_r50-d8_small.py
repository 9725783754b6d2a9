# PSPNet of few channels on a dilated ResNet-50 with ImageNet weights.
_base_ = ['./pspnet_r18-w0.5-d8_small.py', './resnet50_caffe.py']
model = dict(
    backbone=dict(
        _base_.backbone,
        type='mmseg.ResNet',
        stem_channels=64,
        frozen_stages=3),
    decode_head=dict(in_channels=2048))
