# The teacher of the classification demo: half the usual width.
_base_ = './resnet18-w0.0625_10e_digits-32.py'
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    head=dict(in_channels=256))
