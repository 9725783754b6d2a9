"""Configs of models as small as their packages allow."""


def fpn_retinanet(base_channels: int) -> dict:
    """RetinaNet with three levels of 8 channels, strides 8, 16 and 32."""
    width = base_channels
    return dict(
        _scope_='mmdet',
        type='RetinaNet',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[128.0] * 3,
            std=[64.0] * 3,
            pad_size_divisor=32,
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=width),
        neck=dict(
            type='FPN',
            in_channels=[width, 2 * width, 4 * width, 8 * width],
            out_channels=8,
            start_level=1,
            num_outs=3,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=3,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=1,
                ratios=[1.0],
                strides=[8, 16, 32],
            ),
            loss_cls=dict(type='FocalLoss'),
        ),
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                min_pos_iou=0,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
    )


def fcn_segmentor(base_channels: int) -> dict:
    """FCN of 4 classes on the last stage of a ResNet-18, stride 32."""
    return dict(
        _scope_='mmseg',
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[128.0] * 3,
            std=[64.0] * 3,
            size=(64, 64),
        ),
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            base_channels=base_channels,
            stem_channels=base_channels,
            norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=8 * base_channels,
            in_index=3,
            channels=8,
            num_convs=1,
            concat_input=False,
            num_classes=4,
            norm_cfg=dict(type='BN'),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def resnet_classifier(base_channels: int) -> dict:
    """ResNet-18 of 5 classes."""
    return dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor',
            mean=[128.0] * 3,
            std=[64.0] * 3,
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=base_channels,
            stem_channels=base_channels,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=5,
            in_channels=8 * base_channels,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )
