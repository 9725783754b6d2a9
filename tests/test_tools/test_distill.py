"""Pairs of plain configs become distillations that train."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

import kdvit_mm
from kdvit_mm.analysis.configs import (
    ConfigError,
    build_algorithm,
    build_train_loader,
    first_batch,
)
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
SIZE = 128



@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Four images for detection, segmentation and classification."""
    root = tmp_path_factory.mktemp('data')
    for folder in ('images', 'masks', 'classes/a', 'classes/b', 'classes/c'):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        image = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        x, y, side = 8 + 4 * i, 16, 40
        image[y : y + side, x : x + side] = 60 * i
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[y : y + side, x : x + side] = 1 + i % 2
        cv2.imwrite(str(root / f'images/{i}.png'), image)
        cv2.imwrite(str(root / f'masks/{i}.png'), mask)
        small = cv2.resize(image, (32, 32))
        cv2.imwrite(str(root / f'classes/{"abc"[i % 3]}/{i}.png'), small)
        images.append(
            dict(id=i, file_name=f'{i}.png', width=SIZE, height=SIZE)
        )
        corners = [x, y, x + side, y, x + side, y + side, x, y + side]
        annotations.append(
            dict(
                id=i,
                image_id=i,
                category_id=i % 2,
                bbox=[x, y, side, side],
                segmentation=[corners],
                area=side * side,
                iscrowd=0,
            )
        )
    categories = [dict(id=i, name=name) for i, name in enumerate('abc')]
    content = dict(
        images=images, annotations=annotations, categories=categories
    )
    (root / 'coco.json').write_text(json.dumps(content))
    return root


def dataset(root, package, masks=False):
    if package == 'mmdet':
        return dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file='coco.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('a', 'b', 'c')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
                dict(type='PackDetInputs'),
            ],
        )
    if package == 'mmseg':
        return dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            img_suffix='.png',
            metainfo=dict(classes=('a', 'b', 'c'), palette=[[0] * 3] * 3),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
    return dict(
        type='CustomDataset',
        data_root=str(root),
        data_prefix='classes',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )



GROUPS = {'bbox_head.norm_cfg': dict(type='GN', num_groups=4)}
# By name: package, file of its zoo, what channels are divided by, changes.
ZOO = {
    'gfl': ('mmdet', 'gfl/gfl_r50_fpn_1x_coco', 16, GROUPS),
    'retinanet': ('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', 16, {}),
    'fcos': (
        'mmdet', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 16, GROUPS,
    ),
    'atss': ('mmdet', 'atss/atss_r50_fpn_1x_coco', 16, GROUPS),
    'faster-rcnn': (
        'mmdet', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 16, {},
    ),
    'cascade-rcnn': (
        'mmdet', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco', 16, {},
    ),
    'mask-rcnn': ('mmdet', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 16, {}),
    'rtmdet': (
        'mmdet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco', 4,
        {
            'backbone.widen_factor': 0.125,
            'neck.in_channels': [32, 64, 128],
        },
    ),
    'dino': ('mmdet', 'dino/dino-4scale_r50_8xb2-12e_coco', 16, tiny.DINO),
    'pspnet': (
        'mmseg', 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024', 32, {},
    ),
    'deeplabv3': (
        'mmseg', 'deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024',
        32, {},
    ),
    'upernet': (
        'mmseg', 'upernet/upernet_r50_4xb2-40k_cityscapes-512x1024', 32, {},
    ),
    'segformer': (
        'mmseg', 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
        4, {'backbone.in_channels': 3, 'decode_head.in_channels':
            [8, 16, 40, 64]},
    ),
    'resnet': ('mmpretrain', 'resnet/resnet18_8xb16_cifar10', 1, {}),
    'mobilenet': (
        'mmpretrain', 'mobilenet_v2/mobilenet-v2_8xb32_in1k', 1,
        {'backbone.widen_factor': 0.1},
    ),
    'vit': (
        'mmpretrain', 'vision_transformer/vit-base-p16_64xb64_in1k', 1,
        {
            'backbone.arch': dict(
                embed_dims=16, num_layers=2, num_heads=2,
                feedforward_channels=16,
            ),
            'backbone.img_size': 32,
            'backbone.patch_size': 8,
            'head.in_channels': 16,
            'train_cfg': None,
        },
    ),
}  # fmt: skip


def model_of(name, classes=3, by=1):
    """A tiny model; ``by`` makes it narrower."""
    if name == 'yolox':
        return tiny.yolox(classes)
    package, file, divisor, changes = ZOO[name]
    model = tiny.zoo(package, file, divisor * by, changes, classes)
    # Crops of the zoo's data sets.
    model.get('data_preprocessor', {}).pop('size', None)
    return model


@pytest.fixture
def write(tmp_path, data):
    """Writes a plain config of a tiny model and returns its path."""

    def write_config(name, stem, classes=3, by=1, **keys):
        model = model_of(name, classes, by)
        package = model['_scope_']
        loader = dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dataset(data, package, name == 'mask-rcnn'),
        )
        cfg = dict(
            default_scope=package,
            model=model,
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        )
        if package == 'mmpretrain':
            cfg['data_preprocessor'] = dict(
                num_classes=classes, mean=[127] * 3, std=[60] * 3
            )
        path = tmp_path / f'{stem}.py'
        Config(cfg | keys).dump(path)
        return str(path)

    return write_config


def save_teacher(config, path):
    """A checkpoint of a plain config with random weights."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    torch.save(model.state_dict(), path)
    return str(path)


def gradients(cfg):
    """Values of all losses and whether the distill ones reach the student."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = build_algorithm(cfg)
        batch = first_batch(build_train_loader(cfg, 0))
        model.train()
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        total, values = model.parse_losses(losses)
        assert torch.isfinite(total)
        distilled = sum(v for k, v in losses.items() if 'distill.' in k)
        distilled.backward()
    norms = {
        name: float(weight.grad.norm())
        for name, weight in model.student.named_parameters()
        if weight.grad is not None
    }
    assert all(np.isfinite(norm) for norm in norms.values())
    assert all(p.grad is None for p in model.teacher.parameters())
    return values, norms


PAIRS = [
    ('gfl', 'gfl', 'fgd'),
    ('gfl', 'gfl', 'ld'),
    ('gfl', 'gfl', 'dist'),
    ('gfl', 'faster-rcnn', 'pkd'),
    ('retinanet', 'gfl', 'mgd'),
    ('fcos', 'retinanet', 'defeat'),
    ('atss', 'gfl', 'cwd'),
    ('faster-rcnn', 'faster-rcnn', 'dkd'),
    ('faster-rcnn', 'mask-rcnn', 'dist'),
    ('faster-rcnn', 'retinanet', 'fgd'),
    ('cascade-rcnn', 'faster-rcnn', 'pkd'),
    ('mask-rcnn', 'mask-rcnn', 'reviewkd'),
    ('rtmdet', 'gfl', 'mgd'),
    ('rtmdet', 'rtmdet', 'cwd'),
    ('yolox', 'rtmdet', 'fgd'),
    ('dino', 'gfl', 'fgd'),
    ('gfl', 'dino', 'defeat'),
    ('pspnet', 'deeplabv3', 'cwd'),
    ('deeplabv3', 'deeplabv3', 'mgd'),
    ('upernet', 'upernet', 'dist'),
    ('segformer', 'deeplabv3', 'cwd'),
    ('segformer', 'upernet', 'cwd'),
    ('resnet', 'resnet', 'kd'),
    ('resnet', 'resnet', 'fitnets'),
    ('mobilenet', 'resnet', 'kd'),
    ('vit', 'resnet', 'kd'),
]


@pytest.mark.parametrize(('student', 'teacher', 'method'), PAIRS)
def test_a_pair_trains(student, teacher, method, write, tmp_path):
    student = write(student, 'student')
    teacher = write(teacher, 'teacher')
    checkpoint = save_teacher(teacher, tmp_path / 'teacher.pth')
    cfg = kdvit_mm.build_distillation(student, teacher, method, checkpoint)
    values, norms = gradients(cfg)
    names = [f'distill.{name}' for name in cfg.model.distiller.distill_losses]
    assert names
    for name in names:
        assert 0 < abs(values[name]) < float('inf'), name
    assert any(norm > 0 for norm in norms.values())
