"""Real models of mmdet, mmseg and mmpretrain, as small as they come."""

import copy
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmrazor.models.algorithms import SingleTeacherDistill
from torch import nn

from kdvit_mm.registry import MODELS

CLASSES = 10
# Keys of the models' configs that are numbers of channels.
CHANNELS = {
    'block_mid_channels',
    'c1_channels',
    'c1_in_channels',
    'channels',
    'conv_out_channels',
    'embed_dims',
    'fc_out_channels',
    'feat_channels',
    'feedforward_channels',
    'in_channels',
    'mid_channels',
    'num_deconv_filters',
    'num_feats',
    'out_channels',
    'proposal_feature_channel',
}
DETR = {
    'bbox_head.embed_dims': 16,
    'num_queries': 20,
    'encoder.num_layers': 1,
    'decoder.num_layers': 2,
}
# Its decoder encodes positions in 128 numbers, whatever the width.
DINO = DETR | {
    'bbox_head.embed_dims': 256,
    'neck.out_channels': 256,
    'positional_encoding.num_feats': 128,
    **{
        f'{part}.embed_dims': 256
        for part in (
            'encoder.layer_cfg.self_attn_cfg',
            'encoder.layer_cfg.ffn_cfg',
            'decoder.layer_cfg.self_attn_cfg',
            'decoder.layer_cfg.cross_attn_cfg',
            'decoder.layer_cfg.ffn_cfg',
        )
    },
}


def gfl(base: int = 8, fpn: int = 16, convs: int = 1) -> ConfigDict:
    """GFL on a ResNet-18 of ``base`` channels."""
    return ConfigDict(
        _scope_='mmdet',
        type='GFL',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[127.0] * 3,
            std=[60.0] * 3,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=base,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            norm_cfg=dict(type='BN', requires_grad=True),
        ),
        neck=dict(
            type='FPN',
            in_channels=[base, 2 * base, 4 * base, 8 * base],
            out_channels=fpn,
            start_level=1,
            add_extra_convs='on_output',
            num_outs=5,
        ),
        bbox_head=dict(
            type='GFLHead',
            num_classes=CLASSES,
            in_channels=fpn,
            feat_channels=fpn,
            stacked_convs=convs,
            norm_cfg=dict(type='GN', num_groups=4),
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=2,
                scales_per_octave=1,
                strides=[8, 16, 32, 64, 128],
            ),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
            loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(type='ATSSAssigner', topk=9),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=100,
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.6),
            max_per_img=20,
        ),
    )


def faster_rcnn(base: int = 8, fpn: int = 16) -> ConfigDict:
    """Faster R-CNN, whose teacher samples proposals at random."""
    norm = dict(target_means=[0.0] * 4, target_stds=[1.0] * 4)
    one_stage = gfl(base, fpn)
    return ConfigDict(
        _scope_='mmdet',
        type='FasterRCNN',
        data_preprocessor=one_stage.data_preprocessor,
        backbone=one_stage.backbone,
        neck=dict(
            one_stage.neck, start_level=0, num_outs=5, add_extra_convs=False
        ),
        rpn_head=dict(
            type='RPNHead',
            in_channels=fpn,
            feat_channels=fpn,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[4],
                ratios=[1.0],
                strides=[4, 8, 16, 32, 64],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', **norm),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=7),
                out_channels=fpn,
                featmap_strides=[4, 8, 16, 32],
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=fpn,
                fc_out_channels=32,
                roi_feat_size=7,
                num_classes=CLASSES,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', **norm),
                loss_cls=dict(type='CrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss'),
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=0.7,
                    neg_iou_thr=0.3,
                    min_pos_iou=0.3,
                ),
                sampler=dict(
                    type='RandomSampler',
                    num=32,
                    pos_fraction=0.5,
                    add_gt_as_proposals=False,
                ),
                allowed_border=-1,
                pos_weight=-1,
            ),
            rpn_proposal=dict(
                nms_pre=100,
                max_per_img=50,
                nms=dict(type='nms', iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=0.5,
                    neg_iou_thr=0.5,
                    min_pos_iou=0.5,
                ),
                sampler=dict(type='RandomSampler', num=16, pos_fraction=0.25),
                pos_weight=-1,
            ),
        ),
        test_cfg=dict(
            rpn=dict(
                nms_pre=100,
                max_per_img=50,
                nms=dict(type='nms', iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=dict(
                score_thr=0.0,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=10,
            ),
        ),
    )


def shrink(node: Any, by: int, classes: int) -> Any:
    """Makes a config of a package's zoo narrow, shallow and untrained.

    Args:
        node (Any): The model's config, or a part of it.
        by (int): What channels are divided by.
        classes (int): Number of classes.
    """
    if isinstance(node, list | tuple):
        return [shrink(item, by, classes) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: shrink(value, by, classes) for key, value in node.items()}
    for key in CHANNELS & node.keys():
        many = node[key] if isinstance(node[key], list) else [node[key]]
        many = [c // by if c > 3 else c for c in many]
        node[key] = many if isinstance(node[key], list) else many[0]
    if node.get('num_groups'):
        node['num_groups'] = 4
    if 'num_classes' in node:
        node['num_classes'] = classes
    for key in ('init_cfg', 'pretrained', 'frozen_stages', 'with_cp'):
        node.pop(key, None)
    if node.get('type') in ('ResNet', 'ResNetV1c') and 'depth' in node:
        # A bottleneck has four times the channels of a basic block.
        base = (64 if node['depth'] < 50 else 256) // by
        node.update(depth=18, base_channels=base, stem_channels=base)
    return node


def zoo(
    package: str,
    file: str,
    by: int,
    changes: dict[str, Any],
    classes: int = CLASSES,
) -> ConfigDict:
    """A model of a package's zoo, shrunk; ``changes`` are made afterwards."""
    model = get_config(f'{package}::{file}.py').model
    cfg = Config(dict(model=shrink(model.to_dict(), by, classes)))
    cfg.merge_from_dict({f'model.{k}': v for k, v in changes.items()})
    return ConfigDict(cfg.model, _scope_=package)


def dino() -> ConfigDict:
    """DINO with 12 queries, which stops in eval mode without its losses."""
    cfg = get_config('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py').model
    cfg.backbone.update(
        depth=18, base_channels=8, frozen_stages=-1, init_cfg=None
    )
    cfg.neck.in_channels = [16, 32, 64]
    cfg.num_queries = 12
    cfg.encoder.num_layers = 1
    cfg.decoder.num_layers = 2
    cfg.bbox_head.num_classes = CLASSES
    cfg.test_cfg.max_per_img = 5
    return ConfigDict(cfg, _scope_='mmdet')


def yolox(classes: int = CLASSES) -> ConfigDict:
    """YOLOX of an eighth of the width."""
    return ConfigDict(
        _scope_='mmdet',
        type='YOLOX',
        data_preprocessor=gfl().data_preprocessor,
        backbone=dict(
            type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125
        ),
        neck=dict(
            type='YOLOXPAFPN',
            in_channels=[32, 64, 128],
            out_channels=16,
            num_csp_blocks=1,
        ),
        bbox_head=dict(
            type='YOLOXHead',
            num_classes=classes,
            in_channels=16,
            feat_channels=16,
        ),
        train_cfg=dict(assigner=dict(type='SimOTAAssigner')),
        test_cfg=dict(
            score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)
        ),
    )


def fcn(base: int = 8) -> ConfigDict:
    """FCN with dropout on a ResNet-18 of ``base`` channels."""
    return ConfigDict(
        _scope_='mmseg',
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[127.0] * 3,
            std=[60.0] * 3,
            size_divisor=32,
        ),
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            base_channels=base,
            stem_channels=base,
            out_indices=(0, 1, 2, 3),
            norm_cfg=dict(type='BN', requires_grad=True),
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=8 * base,
            in_index=3,
            channels=8,
            num_convs=1,
            concat_input=False,
            dropout_ratio=0.5,
            num_classes=CLASSES + 1,
            norm_cfg=dict(type='BN', requires_grad=True),
            loss_decode=dict(type='CrossEntropyLoss'),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def resnet(base: int = 4) -> ConfigDict:
    """A ResNet-18 classifier for 32 px."""
    return ConfigDict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor',
            num_classes=CLASSES,
            mean=[127.0] * 3,
            std=[60.0] * 3,
        ),
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            base_channels=base,
            stem_channels=base,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=CLASSES, in_channels=8 * base
        ),
    )


def distiller(
    source: str = 'neck', levels: int = 5, weight: float = 1.0
) -> ConfigDict:
    """mmrazor's CWD on the maps that ``source`` puts out."""
    record = dict(rec=dict(type='ModuleOutputs', source=source))
    index = [dict(data_idx=i) for i in range(levels)] if levels else [{}]
    return ConfigDict(
        type='ConfigurableDistiller',
        student_recorders=record,
        teacher_recorders=record,
        distill_losses={
            f'loss_{i}': dict(
                type='mmrazor.ChannelWiseDivergence', tau=1, loss_weight=weight
            )
            for i in range(len(index))
        },
        loss_forward_mappings={
            f'loss_{i}': dict(
                preds_S=dict(recorder='rec', from_student=True, **which),
                preds_T=dict(recorder='rec', from_student=False, **which),
            )
            for i, which in enumerate(index)
        },
    )


def algorithm(kind: str = 'LeanTeacherDistill', **changes: Any) -> ConfigDict:
    """A GFL pair with CWD on the FPN; ``changes`` are config keys."""
    config = dict(
        _scope_='kdvit_mm',
        type=kind,
        architecture=gfl(8),
        teacher=gfl(16),
        distiller=distiller(),
    )
    return ConfigDict(config | changes)


def build(seed: int = 0, **changes: Any) -> SingleTeacherDistill:
    """Builds :func:`algorithm` from a seed, in train mode."""
    torch.manual_seed(seed)
    model = MODELS.build(algorithm(**changes))
    for network in (model.student, model.teacher):
        # Until init_weights, mmdet leaves here what the memory held.
        if hasattr(network, 'level_embed'):
            nn.init.normal_(network.level_embed)
    # mmrazor's returns nothing.
    model.train()
    return model


def equal_networks(network: ConfigDict, **changes: Any) -> Any:
    """An algorithm whose networks have equal weights, in eval mode.

    Norms have other statistics and biases than they start with.
    """
    teacher = copy.deepcopy(network)
    model = build(architecture=network, teacher=teacher, **changes)
    model.init_weights()
    for module in model.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    model.teacher.load_state_dict(model.student.state_dict())
    model.student.eval()
    model.teacher.eval()
    return model


def detection_batch(number: int = 2, size: int = 128, seed: int = 0) -> dict:
    """Random images with random boxes, as a data loader hands them over."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(number):
        corner = torch.rand(4, 2, generator=generator) * size * 0.6
        side = 8 + torch.rand(4, 2, generator=generator) * size * 0.3
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_shape=(size, size),
                ori_shape=(size, size),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + side], 1),
            labels=torch.randint(CLASSES, (4,), generator=generator),
        )
        image = torch.randint(
            256, (3, size, size), generator=generator, dtype=torch.uint8
        )
        samples.append(dict(inputs=image, data_samples=sample))
    return pseudo_collate(samples)


def segmentation_batch(
    number: int = 2, size: int = 64, classes: int = CLASSES + 1, seed: int = 0
) -> dict:
    """Random images with random label maps."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(number):
        image = torch.randint(
            256, (3, size, size), generator=generator, dtype=torch.uint8
        )
        sample = SegDataSample(metainfo=dict(img_shape=(size, size)))
        truth = torch.randint(classes, (1, size, size), generator=generator)
        sample.gt_sem_seg = PixelData(data=truth)
        samples.append(dict(inputs=image, data_samples=sample))
    return pseudo_collate(samples)
