_base_ = '../../students/mmseg/deeplabv3_r18-d8_4xb4-40k_camvid-360x360.py'
model = dict(
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101),
    decode_head=dict(in_channels=2048, channels=512),
    auxiliary_head=dict(in_channels=1024, channels=256))
