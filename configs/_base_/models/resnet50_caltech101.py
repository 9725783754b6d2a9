# A ResNet-50 with ImageNet weights, of which the head alone is trained.
_base_ = ['./resnet18-w0.15625_caltech101.py', './resnet50_caffe.py']
model = dict(
    backbone=dict(_base_.backbone, stem_channels=64, frozen_stages=4),
    head=dict(in_channels=2048))
