# PSPNet on a dilated ResNet-18 of half the usual width.
_base_ = './fcn_r18-w0.125-d8_small.py'
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    decode_head=dict(
        _delete_=True,
        type='mmseg.PSPHead',
        in_channels=256,
        in_index=3,
        channels=64,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode={{_base_.model.decode_head.loss_decode}}))
