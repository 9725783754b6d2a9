"""The doctor's verdict is whether training works, over the zoos' families."""

import json
import logging
import math

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from kdvit_mm.analysis import diagnose
from kdvit_mm.analysis.configs import build_train_loader
from kdvit_mm.analysis.doctor import build_algorithm
from kdvit_mm.analysis.rehearsal import rehearsing
from tests import tiny
from tests.tiny import DETR, DINO

SIZE, IMAGES, CLASSES = 64, 6, 3
PACKAGES = {
    'det': 'mmdet',
    'ins': 'mmdet',
    'seg': 'mmseg',
    'cls': 'mmpretrain',
}
CONDINST = {
    'mask_head.feat_channels': 8,
    'mask_head.mask_feature_head.out_channels': 8,
}
YOLOX = {
    'backbone.widen_factor': 0.125,
    'data_preprocessor.batch_augments.0.random_size_range': (64, 96),
    'data_preprocessor.batch_augments.0.interval': 1,
}
RTMDET = {'backbone.widen_factor': 0.125}
VIT = {
    'backbone.arch': dict(
        _delete_=True,
        embed_dims=16,
        num_layers=2,
        num_heads=2,
        feedforward_channels=32,
    ),
    'backbone.img_size': SIZE,
    'head.in_channels': 16,
}
SWIN = {
    'backbone.arch': dict(
        _delete_=True,
        embed_dims=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
    ),
    'backbone.img_size': SIZE,
    'backbone.pad_small_map': True,
    'head.in_channels': 64,
}
CONVNEXT = {
    'backbone.arch': dict(
        _delete_=True, depths=[1] * 4, channels=[8, 16, 32, 64]
    ),
    'head.in_channels': 64,
}
# Task, config in the zoo, what channels are divided by, other changes.
ZOO = [
    ('det', 'retinanet/retinanet_r50_fpn_1x_coco', 16, {}),
    ('det', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 8, {}),
    ('det', 'atss/atss_r50_fpn_1x_coco', 8, {}),
    ('det', 'gfl/gfl_r50_fpn_1x_coco', 8, {}),
    ('det', 'tood/tood_r50_fpn_1x_coco', 8, {}),
    ('det', 'vfnet/vfnet_r50_fpn_1x_coco', 8, {}),
    ('det', 'foveabox/fovea_r50_fpn_4xb4-1x_coco', 16, {}),
    ('det', 'free_anchor/freeanchor_r50_fpn_1x_coco', 16, {}),
    ('det', 'yolof/yolof_r50-c5_8xb8-1x_coco', 16, {}),
    ('det', 'centernet/centernet_r18_8xb16-crop512-140e_coco', 4, {}),
    ('det', 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco', 1, {}),
    ('det', 'yolox/yolox_tiny_8xb8-300e_coco', 3, YOLOX),
    ('det', 'rtmdet/rtmdet_tiny_8xb32-300e_coco', 3, RTMDET),
    ('det', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 16, {}),
    ('det', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco', 16, {}),
    ('det', 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco', 16, {}),
    ('det', 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco', 16, {}),
    ('det', 'detr/detr_r50_8xb2-150e_coco', 16, DETR),
    ('det', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco', 16, DETR),
    ('det', 'dino/dino-4scale_r50_8xb2-12e_coco', 16, DINO),
    ('ins', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 16, {}),
    ('ins', 'htc/htc-without-semantic_r50_fpn_1x_coco', 16, {}),
    ('ins', 'solov2/solov2_r50_fpn_1x_coco', 16, {}),
    (
        'ins',
        'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
        8,
        CONDINST,
    ),
    ('ins', 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco', 3, RTMDET),
    ('seg', '_base_/models/fcn_r50-d8', 16, {}),
    ('seg', '_base_/models/pspnet_r50-d8', 16, {}),
    ('seg', '_base_/models/deeplabv3_r50-d8', 16, {}),
    ('seg', '_base_/models/deeplabv3plus_r50-d8', 16, {}),
    ('seg', '_base_/models/ocrnet_r50-d8', 16, {}),
    ('seg', '_base_/models/fpn_r50', 16, {}),
    ('seg', '_base_/models/upernet_swin', 4, {}),
    ('seg', '_base_/models/segformer_mit-b0', 4, {}),
    ('cls', '_base_/models/resnet50', 16, {}),
    ('cls', '_base_/models/mobilenet_v2_1x', 1, {}),
    ('cls', '_base_/models/vit-base-p16', 1, VIT),
    ('cls', '_base_/models/swin_transformer/tiny_224', 1, SWIN),
    ('cls', '_base_/models/convnext/convnext-tiny', 1, CONVNEXT),
]


def zoo_model(task, file, by, changes):
    model = tiny.zoo(PACKAGES[task], file, by, changes, CLASSES)
    if task == 'seg':
        model.data_preprocessor.size = (SIZE, SIZE)
    if task == 'cls':
        model.data_preprocessor = dict(
            type='ClsDataPreprocessor',
            mean=[127.0] * 3,
            std=[60.0] * 3,
            num_classes=CLASSES,
        )
    return model.to_dict()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Noisy images with a square each, for all tasks."""
    root = tmp_path_factory.mktemp('data')
    for folder in ('images', 'masks', *(f'classes/{c}' for c in 'abc')):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(IMAGES):
        image = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(0, SIZE - 32, 2))
        image[y : y + 32, x : x + 32] = 80 * (i % CLASSES)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[y : y + 32, x : x + 32] = i % CLASSES
        cv2.imwrite(str(root / 'images' / f'{i}.png'), image)
        folder = root / 'classes' / 'abc'[i % CLASSES]
        cv2.imwrite(str(folder / f'{i}.png'), image)
        cv2.imwrite(str(root / 'masks' / f'{i}.png'), mask)
        images.append(
            dict(id=i, file_name=f'{i}.png', width=SIZE, height=SIZE)
        )
        corners = [x, y, x + 32, y, x + 32, y + 32, x, y + 32]
        annotations.append(
            dict(
                id=i,
                image_id=i,
                category_id=i % CLASSES,
                bbox=[x, y, 32, 32],
                area=1024,
                iscrowd=0,
                segmentation=[corners],
            )
        )
    categories = [dict(id=i, name=name) for i, name in enumerate('abc')]
    (root / 'coco.json').write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=categories)
        )
    )
    return root


def dataset(task, root):
    load = dict(type='LoadImageFromFile')
    if task == 'cls':
        return dict(
            type='CustomDataset',
            data_root=str(root / 'classes'),
            serialize_data=False,
            pipeline=[load, dict(type='PackInputs')],
        )
    if task == 'seg':
        return dict(
            type='BaseSegDataset',
            data_root=str(root),
            serialize_data=False,
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            img_suffix='.png',
            seg_map_suffix='.png',
            metainfo=dict(classes=tuple('abc')),
            pipeline=[
                load,
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
    return dict(
        type='CocoDataset',
        data_root=str(root),
        serialize_data=False,
        ann_file='coco.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=tuple('abc')),
        pipeline=[
            load,
            dict(
                type='LoadAnnotations',
                with_bbox=True,
                with_mask=task == 'ins',
            ),
            dict(type='PackDetInputs'),
        ],
    )


def distillation(task, model, root):
    """The model distils from one of its own kind; three steps an epoch."""
    source = 'neck' if task != 'cls' and model.get('neck') else 'backbone'
    recorder = dict(rec=dict(type='ModuleOutputs', source=source))
    return Config(
        dict(
            default_scope=PACKAGES[task],
            model=dict(
                _scope_='kdvit_mm',
                type='LeanTeacherDistill',
                architecture=model,
                teacher=model,
                distiller=dict(
                    type='ConfigurableDistiller',
                    student_recorders=recorder,
                    teacher_recorders=recorder,
                    distill_losses=dict(
                        loss_l2=dict(type='kdvit_mm.FeatureL2Loss')
                    ),
                    loss_forward_mappings=dict(
                        loss_l2=dict(
                            preds_S=dict(recorder='rec', from_student=True),
                            preds_T=dict(recorder='rec', from_student=False),
                        )
                    ),
                ),
            ),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dataset(task, root),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4)
            ),
            default_hooks=dict(checkpoint=None),
            randomness=dict(seed=0),
        )
    )


class Losses(Hook):
    """Stops at a loss that is not finite, and where nothing is trained."""

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        assert math.isfinite(outputs['loss']), outputs

    def after_train(self, runner):
        assert runner.iter, 'no step'


def why_it_fails(cfg, folder):
    """What a plain runner says when it trains a config; None if it can."""
    cfg = Config.fromfile(cfg)
    cfg.update(
        work_dir=str(folder), log_level='ERROR', experiment_name=folder.name
    )
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        try:
            runner = Runner.from_cfg(cfg)
            runner.register_hook(Losses())
            runner.train()
        except Exception as error:
            return f'{type(error).__name__}: {error}'
    return None


@pytest.fixture
def verdicts(tmp_path, monkeypatch):
    # What takes longer than the training: to collect the environment, to
    # lay out a config nicely and to log every weight's initialisation.
    monkeypatch.setattr(Runner, '_log_env', lambda *args: None)
    monkeypatch.setattr(Config, 'pretty_text', '')
    logging.disable(logging.INFO)
    # Several threads are slower on maps this small.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def both(cfg):
        path = tmp_path / 'config.py'
        path.write_text(
            '\n'.join(f'{k} = {v!r}' for k, v in cfg.to_dict().items())
        )
        return diagnose(str(path)).errors, why_it_fails(path, tmp_path / 'run')

    yield both
    torch.set_num_threads(threads)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ('task', 'file', 'by', 'changes'), ZOO, ids=[z[1] for z in ZOO]
)
def test_families_can_train(root, verdicts, task, file, by, changes):
    model = zoo_model(task, file, by, changes)
    said, happened = verdicts(distillation(task, model, root))
    assert happened is None
    assert said == []


CLS = ('cls', '_base_/models/resnet50', 16, {})
GFL = ('det', 'gfl/gfl_r50_fpn_1x_coco', 8, {})
RETINANET = ('det', 'retinanet/retinanet_r50_fpn_1x_coco', 16, {})
SEG = ('seg', '_base_/models/fcn_r50-d8', 16, {})
LOAD = [dict(type='LoadImageFromFile')]
NO_VALIDATION = dict(
    val_cfg=dict(type='ValLoop'),
    val_dataloader=dict(
        batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='CustomDataset', data_root='none', pipeline=LOAD),
    ),
    val_evaluator=dict(type='Accuracy'),
)
NECK = {
    'model.teacher.neck.out_channels': 24,
    'model.teacher.bbox_head.in_channels': 24,
}
FROZEN = {
    'model.calculate_student_loss': False,
    'model.architecture.backbone.frozen_stages': 4,
}


def hooks(*configs, epochs=2, **others):
    return {
        'custom_hooks': list(configs),
        'train_cfg.max_epochs': epochs,
        **others,
    }


def switch(pipeline):
    return hooks(
        dict(
            type='mmdet.PipelineSwitchHook',
            switch_epoch=1,
            switch_pipeline=pipeline,
        ),
        epochs=4,
    )


# Model, changes of the config, words of the doctor.
MISTAKES = {
    'channels': (
        GFL,
        NECK,
        ['connectors=dict(loss_l2_s=', '_channel=32', '_channel=24'],
    ),
    'classes of a detector': (
        RETINANET,
        {'model.architecture.bbox_head.num_classes': 1},
        ['training step fails'],
    ),
    'classes of a classifier': (
        CLS,
        {'model.architecture.head.num_classes': 2},
        ['training step fails', 'Target 2 is out of bounds'],
    ),
    'classes of a segmentor': (
        SEG,
        {'model.architecture.decode_head.num_classes': 2},
        ['training step fails'],
    ),
    'no optimiser': (CLS, {'optim_wrapper': None}, ['key "optim_wrapper"']),
    'no loop': (CLS, {'train_cfg': None}, ['key "train_cfg"']),
    'wrong loop': (
        CLS,
        {'train_cfg': dict(_delete_=True, by_epoch=True)},
        ['train_cfg is wrong', 'max_epochs'],
    ),
    'all frozen': (CLS, FROZEN, ['No loss has a gradient']),
    'no data': (
        GFL,
        {'train_dataloader.dataset.ann_file': 'none.json'},
        ['train_dataloader gives no batch', 'none.json'],
    ),
    'less than a batch': (
        CLS,
        {'train_dataloader.batch_size': 7, 'train_dataloader.drop_last': True},
        ['6 images are fewer than one batch'],
    ),
    'wrong pipeline': (
        GFL,
        {'train_dataloader.dataset.pipeline': LOAD},
        ['data_preprocessor fails'],
    ),
    'unknown hook': (
        CLS,
        hooks(dict(type='NoHook')),
        ['Hook NoHook cannot be built'],
    ),
    'hook beyond the end': (
        CLS,
        hooks(dict(type='EMAHook', begin_epoch=9)),
        ['EMAHook.before_train fails', 'custom_hooks'],
    ),
    'wrong optimiser': (
        CLS,
        {'optim_wrapper.optimizer.momentum': 0.9},
        ['optim_wrapper cannot be built', 'momentum'],
    ),
    'wrong scheduler': (
        CLS,
        {'param_scheduler': [dict(type='MultiStepLR')]},
        ['param_scheduler cannot be built', 'milestones'],
    ),
    'mixed precision without a GPU': (
        CLS,
        {'optim_wrapper.type': 'AmpOptimWrapper'},
        ['optim_wrapper cannot be built'],
    ),
    'wrong validation': (CLS, NO_VALIDATION, ['validation cannot be built']),
    'no checkpoint': (CLS, {'load_from': 'none.pth'}, ['none.pth']),
    'too large a rate': (
        CLS,
        {'optim_wrapper.optimizer': dict(type='SGD', lr=1e12)},
        ['not finite in step', 'learning rate'],
    ),
    'too large a weight': (
        CLS,
        {'model.distiller.distill_losses.loss_l2.loss_weight': 1e39},
        ['loss_l2 is not finite: value inf'],
    ),
    'late switch to a wrong pipeline': (
        GFL,
        switch(LOAD),
        ['step fails in epoch 2 of 4'],
    ),
    'late switch of what is not there': (
        GFL,
        hooks(
            dict(type='mmdet.YOLOXModeSwitchHook', num_last_epochs=1), epochs=4
        ),
        [
            'YOLOXModeSwitchHook.before_train_epoch fails in epoch 3 of 4',
            'update_skip_type_keys',
        ],
    ),
    'late detachment of the only loss': (
        CLS,
        hooks(
            dict(type='kdvit_mm.DistillationLossDetachHook', detach_epoch=1),
            **{'model.calculate_student_loss': False},
        ),
        ['DistillationLossDetachHook', 'calculate_student_loss'],
    ),
}


@pytest.mark.skipif(
    torch.cuda.is_available(), reason='one case needs a machine without GPU'
)
@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_cannot_train(root, verdicts, mistake):
    zoo, changes, words = MISTAKES[mistake]
    cfg = distillation(zoo[0], zoo_model(*zoo), root)
    cfg.merge_from_dict(changes)
    said, happened = verdicts(cfg)
    assert happened is not None
    assert any(all(word in text for word in words) for text in said), said
    assert len(said) == 1


MOSAIC = dict(
    type='MultiImageMixDataset',
    pipeline=[
        dict(type='Mosaic', img_scale=(SIZE, SIZE)),
        dict(type='RandomAffine', border=(-SIZE // 2, -SIZE // 2)),
        dict(type='PackDetInputs'),
    ],
)
RARE = {
    'average of weights': (CLS, hooks(dict(type='EMAHook'))),
    'detachment': (
        CLS,
        hooks(
            dict(type='kdvit_mm.DistillationLossDetachHook', detach_epoch=1)
        ),
    ),
    'iterations': (
        CLS,
        {
            'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=5),
            'train_dataloader.sampler': dict(
                type='InfiniteSampler', shuffle=True
            ),
        },
    ),
    'recipe': (
        CLS,
        hooks(
            dict(
                type='SwitchRecipeHook',
                schedule=[
                    dict(
                        action_epoch=2,
                        batch_augments=dict(
                            augments=dict(type='Mixup', alpha=0.8)
                        ),
                        loss=dict(
                            type='LabelSmoothLoss', label_smooth_val=0.1
                        ),
                    )
                ],
            )
        ),
    ),
    'precise batch norms': (CLS, hooks(dict(type='PreciseBNHook'))),
    'teacher of other classes': (
        GFL,
        hooks(
            dict(type='NumClassCheckHook'),
            **{'model.teacher.bbox_head.num_classes': 80},
        ),
    ),
    'checkpoints': (
        CLS,
        {
            'default_hooks.checkpoint': dict(
                _delete_=True, type='CheckpointHook'
            )
        },
    ),
}


@pytest.mark.parametrize('kind', [*RARE, 'mode switch'])
def test_what_is_rare_can_train(root, verdicts, kind):
    if kind == 'mode switch':
        zoo = next(z for z in ZOO if 'yolox' in z[1])
        cfg = distillation('det', zoo_model(*zoo), root)
        inner = cfg.train_dataloader.dataset
        inner.pipeline.pop()
        cfg.train_dataloader.dataset = dict(MOSAIC, dataset=inner)
        cfg.merge_from_dict(
            hooks(
                dict(type='YOLOXModeSwitchHook', num_last_epochs=1), epochs=3
            )
        )
    else:
        zoo, changes = RARE[kind]
        cfg = distillation(zoo[0], zoo_model(*zoo), root)
        cfg.merge_from_dict(changes)
    said, happened = verdicts(cfg)
    assert happened is None
    assert said == []


def test_nothing_is_left_behind(root, tmp_path):
    before = [
        {*kind._instance_dict}
        for kind in (MMLogger, MessageHub, Visualizer, DefaultScope)
    ]
    out = tmp_path / 'out'
    cfg = distillation(CLS[0], zoo_model(*CLS), root)
    cfg.merge_from_dict(
        {
            'work_dir': str(out),
            'default_hooks.checkpoint': dict(
                _delete_=True, type='CheckpointHook', out_dir=str(out)
            ),
            'default_hooks.logger': dict(
                type='LoggerHook', out_dir=str(out), interval=1
            ),
        }
    )
    cfg.dump(tmp_path / 'config.py')
    assert diagnose(str(tmp_path / 'config.py')).errors == []
    assert not out.exists()
    assert before == [
        {*kind._instance_dict}
        for kind in (MMLogger, MessageHub, Visualizer, DefaultScope)
    ]


def test_a_switch_is_rehearsed(root, tmp_path):
    """Once at the switch, not in the epochs between."""
    cfg = distillation(GFL[0], zoo_model(*GFL), root)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.merge_from_dict(switch([p.to_dict() for p in pipeline]))
    cfg.train_cfg.max_epochs = 30
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_algorithm(cfg)
        loader = build_train_loader(cfg, 0)
        with rehearsing(cfg, model, loader, None) as runner:
            steps = []

            class Epochs(Hook):
                def after_train_iter(self, runner, *args, **kwargs):
                    steps.append(runner.epoch)

            runner.register_hook(Epochs())
            runner.rehearse()
    assert steps == [0, 0, 0, 1, 29]
