# The teacher of the classification demo: a quarter of the usual width.
_base_ = './resnet18-w0.0625_10e_digits-32.py'
model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    head=dict(in_channels=128))
