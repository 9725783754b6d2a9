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
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmrazor.registry import MODELS as RAZOR_MODELS

import kdvit_mm
from kdvit_mm import catalog
from kdvit_mm.analysis import diagnose
from kdvit_mm.analysis.configs import (
    ConfigError,
    build_algorithm,
    build_train_loader,
    first_batch,
    model_config,
)
from kdvit_mm.autodistill.connectors import make_connectors
from kdvit_mm.autodistill.text import format_config
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
            serialize_data=False,
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
            serialize_data=False,
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
        serialize_data=False,
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
                _delete_=True, embed_dims=16, num_layers=2, num_heads=2,
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
    if package == 'mmseg':
        model.data_preprocessor.size = (SIZE, SIZE)
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
        # Config.dump takes a second to lay it out.
        cfg = Config(cfg | keys).to_dict()
        path.write_text('\n'.join(f'{k} = {v!r}' for k, v in cfg.items()))
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
    ('fcos', 'retinanet', 'mgd'),
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
    ('gfl', 'dino', 'fgd'),
    ('pspnet', 'deeplabv3', 'cwd'),
    ('deeplabv3', 'deeplabv3', 'mgd'),
    ('upernet', 'upernet', 'dist'),
    ('segformer', 'deeplabv3', 'cwd'),
    ('segformer', 'upernet', 'cwd'),
    ('pspnet', 'deeplabv3', 'kd'),
    ('segformer', 'deeplabv3', 'cirkd'),
    ('upernet', 'segformer', 'at'),
    ('segformer', 'pspnet', 'sp'),
    ('resnet', 'resnet', 'kd'),
    ('resnet', 'resnet', 'fitnets'),
    ('mobilenet', 'resnet', 'sdd'),
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


@pytest.fixture
def build(write, tmp_path):
    """Makes a distillation of two tiny models of the zoo."""

    def build_pair(student, teacher, method, classes=3, **options):
        student = write(student, 'student')
        teacher = write(teacher, 'teacher', classes)
        checkpoint = save_teacher(teacher, tmp_path / 'teacher.pth')
        return kdvit_mm.build_distillation(
            student, teacher, method, checkpoint, **options
        )

    return build_pair


def test_cirkd_gets_what_its_memory_is_about(build):
    distiller = build('segformer', 'deeplabv3', 'cirkd').model.distiller
    memory = distiller.distill_losses.loss_memory
    # 256 channels of one head and 512 of the other, each a 32nd or a quarter.
    assert (memory.student_channels, memory.teacher_channels) == (64, 16)
    assert (memory.num_classes, memory.ignore_index) == (3, 255)
    # No convolution: only stride 4 is brought to stride 8.
    for name in ('loss_mini_batch', 'loss_memory'):
        connector = distiller.connectors[f'{name}_s']
        assert connector.function_name == 'interpolate'
        assert connector.func_args.scale_factor == 0.5


@pytest.mark.parametrize('method', ['at', 'sp'])
def test_no_connector_where_any_shapes_do(build, method):
    distiller = build('segformer', 'deeplabv3', method).model.distiller
    assert 'connectors' not in distiller


def test_a_head_without_dropout_has_no_such_record(write):
    student = model_of('pspnet')
    student.decode_head.dropout_ratio = 0
    student = write('pspnet', 'student', model=student)
    with pytest.raises(
        ConfigError, match=r'records "decode_head\.dropout".*no counterpart'
    ):
        kdvit_mm.build_distillation(student, student, 'sp')


@pytest.mark.parametrize(
    ('method', 'message'),
    [
        ('ofd', r'OFD does not fit .* It has a recorder kdvit_mm.ModuleTuple'),
        ('sskd', 'It has calculate_student_loss and preprocessor, which is'),
    ],
)
def test_methods_that_are_more_than_a_distiller_say_so(method, message, build):
    with pytest.raises(ConfigError, match=message) as error:
        build('resnet', 'resnet', method)
    assert 'docs/classification.md' in str(error.value)


def test_ways_of_training_say_how_they_are_used(build):
    with pytest.raises(ConfigError, match='DOT is a way of training') as error:
        build('resnet', 'resnet', 'dot')
    assert 'distill/mmpretrain/dot/README.md' in str(error.value)
    with pytest.raises(ConfigError, match='There is no method "no"') as error:
        build('resnet', 'resnet', 'no')
    assert ' kd' in str(error.value) and 'kcd' not in str(error.value)


def test_pyramids_are_cut_to_what_both_have(build):
    cfg = build('rtmdet', 'gfl', 'mgd')
    distiller = cfg.model.distiller
    (record,) = distiller.teacher_recorders.values()
    assert record.type == 'kdvit_mm.FPNLevelSelection'
    assert record.levels == [0, 1, 2]
    assert distiller.student_recorders == dict(
        fpn=dict(type='ModuleOutputs', source='neck')
    )
    loss = distiller.distill_losses.loss_mgd
    assert loss.num_levels == 3
    assert loss.connector.student_channels == 24
    assert loss.connector.teacher_channels == 16
    # P3 to P6 are the second to fifth map of the one and the first four of
    # the other. The values are those for two-stage detectors, for P2 to P5.
    cfg = build('faster-rcnn', 'retinanet', 'fgd')
    distiller = cfg.model.distiller
    assert distiller.student_recorders.fpn_levels.levels == [1, 2, 3, 4]
    assert distiller.teacher_recorders.fpn_levels.levels == [0, 1, 2, 3]
    loss = distiller.distill_losses.loss_fgd
    assert (loss.num_levels, loss.levels) == (4, [0, 1, 2, 3])
    assert (loss.loss.channels, loss.loss.alpha_fgd) == (16, 5e-5)


def test_connectors_are_of_the_pair(build):
    # CWD has no connector of its own.
    cfg = build('gfl', 'dino', 'cwd')
    loss = cfg.model.distiller.distill_losses.loss_cwd
    assert (loss.type, loss.num_levels) == ('kdvit_mm.LevelWise', 4)
    assert loss.loss.loss_weight == 10
    assert loss.connector == dict(
        type='ConvModuleConnector',
        in_channel=16,
        out_channel=256,
        act_cfg=None,
    )


def test_what_a_model_lacks_is_replaced_by_what_plays_its_part(build):
    cfg = build('vit', 'resnet', 'kd')
    distiller = cfg.model.distiller
    assert distiller.student_recorders.fc.source == 'head.layers.head'
    assert distiller.teacher_recorders.fc.source == 'head.fc'
    # The fourth stage, on maps of stride 32 and 8: MGD cannot resize.
    with pytest.raises(ConfigError, match=r'\(2, 2048?, 4, 4\)|16, 16') as e:
        build('segformer', 'deeplabv3', 'mgd')
    assert 'loss_mgd' in str(e.value)


def test_a_loss_on_the_head_takes_what_it_needs_from_the_students(build):
    cfg = build('gfl', 'gfl', 'ld')
    loss = cfg.model.distiller.distill_losses.loss_ld
    head = cfg.model.architecture.bbox_head
    assert loss.anchor_generator == head.anchor_generator
    assert loss.assigner == cfg.model.architecture.train_cfg.assigner
    assert loss.reg_max == 16


def test_sizes_are_made_equal_by_the_loss_that_can(build):
    # Strides 4 and 8.
    cfg = build('segformer', 'deeplabv3', 'cwd')
    assert cfg.model.distiller.distill_losses.loss_cwd.resize is True
    assert 'connectors' not in cfg.model.distiller
    # DIST cannot: an interpolation in its place.
    cfg = build('segformer', 'deeplabv3', 'dist')
    assert cfg.model.distiller.connectors.loss_dist_s == dict(
        type='TorchFunctionalConnector',
        function_name='interpolate',
        func_args=dict(scale_factor=0.5, mode='bilinear'),
    )


@pytest.mark.parametrize(
    ('ours', 'theirs', 'keys'),
    [
        ((8, 8), (8, 8), {}),
        ((9, 16), (5, 8), dict(kernel_size=3, stride=2, padding=1)),
        (
            (4, 5),
            (8, 10),
            dict(
                conv_cfg=dict(type='deconv'),
                kernel_size=4,
                stride=2,
                padding=1,
            ),
        ),
        (
            (3, 2),
            (9, 6),
            dict(
                conv_cfg=dict(type='deconv'),
                kernel_size=5,
                stride=3,
                padding=1,
            ),
        ),
    ],
)
def test_a_connector_resizes(ours, theirs, keys):
    (config,) = make_connectors([(2, 4, *ours)], [(2, 6, *theirs)], False)
    assert keys.items() <= config.items()
    connector = RAZOR_MODELS.build(config)
    assert connector(torch.rand(2, 4, *ours)).shape == (2, 6, *theirs)


def test_sizes_without_a_ratio_are_refused():
    with pytest.raises(ConfigError, match='neither a multiple'):
        make_connectors([(2, 4, 7, 7)], [(2, 6, 16, 16)], False)


def test_tokens_are_mapped_by_a_linear_layer():
    (config,) = make_connectors([(2, 5, 4)], [(2, 5, 6)], False)
    assert RAZOR_MODELS.build(config)(torch.rand(2, 5, 4)).shape == (2, 5, 6)
    assert make_connectors([(2, 4)], [(2, 4)], True) == []
    with pytest.raises(ConfigError, match='No connector maps'):
        make_connectors([(2, 4)], [(2, 6, 8, 8)], False)


def test_features_go_on_with_other_classes(build):
    cfg = build('gfl', 'gfl', 'fgd', classes=5)
    values, norms = gradients(cfg)
    assert values['distill.loss_fgd'] > 0
    assert any(norm > 0 for norm in norms.values())
    # What compares scores is left out beside what does not.
    cfg = build('pspnet', 'pspnet', 'mgd', classes=5)
    assert [*cfg.model.distiller.distill_losses] == ['loss_mgd']
    assert [*cfg.model.distiller.student_recorders] == ['layer4']
    gradients(cfg)


@pytest.mark.parametrize(
    ('student', 'teacher', 'method'),
    [
        ('gfl', 'gfl', 'ld'),
        ('gfl', 'gfl', 'dist'),
        ('faster-rcnn', 'faster-rcnn', 'dkd'),
        ('pspnet', 'pspnet', 'cwd'),
        ('mobilenet', 'resnet', 'kd'),
    ],
)
def test_logits_of_other_classes_are_refused(student, teacher, method, build):
    with pytest.raises(ConfigError, match='classes'):
        build(student, teacher, method, classes=5)


@pytest.mark.parametrize(
    ('student', 'teacher', 'method', 'parts'),
    [
        ('gfl', 'gfl', 'dkd', ['roi_head', 'GFL', 'Other methods', 'fgd']),
        ('rtmdet', 'gfl', 'dist', ['8, 16, 32, 64, 128', 'same strides']),
        ('retinanet', 'gfl', 'dist', ['anchors']),
        ('cascade-rcnn', 'cascade-rcnn', 'dkd', ['CascadeRCNN']),
        ('gfl', 'gfl', 'fdg', ['no method "fdg"', 'fgd', 'mgd']),
        ('resnet', 'resnet', 'fgd', ['for Detection', 'kd']),
        ('gfl', 'pspnet', 'cwd', ['GFL', 'EncoderDecoder', 'Segmentation']),
    ],
)
def test_what_does_not_fit_is_refused(student, teacher, method, parts, build):
    with pytest.raises(ConfigError) as error:
        build(student, teacher, method)
    for part in parts:
        assert part in str(error.value)


def test_a_checkpoint_has_to_fit_the_teacher(write, tmp_path):
    student = write('gfl', 'student')
    checkpoint = save_teacher(student, tmp_path / 'student.pth')
    teacher = write('retinanet', 'teacher')
    out = tmp_path / 'work/out.py'
    for file, part in (
        (checkpoint, 'RetinaNet'),
        (str(tmp_path / 'none.pth'), 'cannot be read'),
    ):
        with pytest.raises(ConfigError, match='teacher_ckpt') as error:
            kdvit_mm.build_distillation(student, teacher, 'cwd', file, out=out)
        assert part in str(error.value)
    assert not out.parent.exists()


def test_configs_have_to_be_plain(write, tmp_path):
    plain = write('gfl', 'student')
    build = kdvit_mm.build_distillation
    with pytest.raises(ConfigError, match='cannot be read'):
        build(str(tmp_path / 'none.py'), plain, 'cwd')
    empty = tmp_path / 'empty.py'
    empty.write_text('data = 1')
    with pytest.raises(ConfigError, match='no key "model"'):
        build(plain, str(empty), 'cwd')
    without = write('gfl', 'without', train_dataloader=None)
    with pytest.raises(ConfigError, match='train_dataloader'):
        build(without, plain, 'cwd')
    made = tmp_path / 'made.py'
    build(plain, plain, 'cwd', out=made)
    with pytest.raises(ConfigError, match='a distillation already'):
        build(str(made), plain, 'cwd')
    with pytest.raises(ConfigError, match='config of the model'):
        build(plain, plain, 'cwd', cfg_options={
            'model.architecture.backbone.depth': 34,
        })  # fmt: skip


def test_weights_move_while_it_trains(build, tmp_path):
    made = tmp_path / 'made.py'
    plain = build('gfl', 'gfl', 'cwd')
    cfg = build('gfl', 'gfl', 'cwd', auto_weight=True, out=made, cfg_options={
        'train_cfg.max_epochs': 4,
        'model.distiller.distill_losses.loss_cwd.loss_weight': 1e-4,
    })  # fmt: skip
    assert [h.type for h in plain.custom_hooks] == [
        'kdvit_mm.DistillWatchHook'
    ]
    hook = cfg.custom_hooks[-1]
    assert hook.type == 'kdvit_mm.AutoLossWeightHook'
    assert '# Moves each loss_weight' in made.read_text()
    assert diagnose(str(made), device='cpu').errors == []
    hook.interval = 2
    cfg.merge_from_dict(
        dict(
            work_dir=str(tmp_path / 'run'),
            default_hooks=dict(checkpoint=None),
            log_level='ERROR',
        )
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    shares = scalars['train/auto_weight/share_cwd'].data[0]
    assert shares[0] < 0.1
    assert 0.3 < shares[-2:].mean() < 0.7


def test_the_file_reads_well_and_stays_right_elsewhere(
    build, tmp_path, monkeypatch
):
    made = tmp_path / 'work/fgd.py'
    cfg = build('rtmdet', 'gfl', 'fgd', out=made)
    text = made.read_text()
    assert "_base_ = '../student.py'" in text
    assert 'architecture=_base_.model,' in text
    assert "cfg_path='{{ fileDirname }}/../teacher.py'" in text
    assert "teacher_ckpt='{{ fileDirname }}/../teacher.pth'" in text
    assert str(tmp_path) not in text
    assert max(map(len, text.splitlines())) < 80
    assert '# CSPNeXtPAFPN: 3 maps of 24 channels with strides 8, 16, 32' in (
        text
    )
    # Every entry of the distiller is explained.
    for entry in ('fpn=', 'inputs=', 'fpn_levels=', 'loss_fgd=dict(\n'):
        (line,) = re.findall(rf'\n( +#.*)\n +{re.escape(entry)}', text)[:1]
        assert line.strip('# ')
    monkeypatch.chdir('/')
    again = Config.fromfile(made)
    assert again.to_dict() == cfg.to_dict()
    assert again.work_dir == f'{made.parent}/train'
    gradients(again)


def test_options_are_part_of_the_config(build, tmp_path):
    made = tmp_path / 'made.py'
    cfg = build('gfl', 'gfl', 'cwd', out=made, cfg_options={
        'train_dataloader.batch_size': 1,
        'train_dataloader.dataset.pipeline.0.to_float32': True,
        'model.inference_mode': True,
        'model.distiller.distill_losses.loss_cwd.tau': 2,
    })  # fmt: skip
    assert Config.fromfile(made).to_dict() == cfg.to_dict()
    assert cfg.train_dataloader.batch_size == 1
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert pipeline[0].to_float32 is True
    assert len(pipeline) == 3
    assert cfg.model.inference_mode is True
    assert cfg.model.distiller.distill_losses.loss_cwd.tau == 2


def test_the_students_hooks_stay(write, tmp_path):
    hooks = [dict(type='mmengine.EMAHook')]
    student = write('gfl', 'student', custom_hooks=hooks)
    cfg = kdvit_mm.build_distillation(student, student, 'cwd')
    kinds = [hook.type for hook in cfg.custom_hooks]
    assert kinds == ['mmengine.EMAHook', 'kdvit_mm.DistillWatchHook']
    # One that distils already is not watched twice.
    watched = write('gfl', 'watched', custom_hooks=cfg.custom_hooks)
    cfg = kdvit_mm.build_distillation(watched, student, 'cwd')
    assert [hook.type for hook in cfg.custom_hooks] == kinds


def test_names_and_new_style_configs(write, tmp_path):
    """A teacher of the zoo, and a student that is a base to no text."""
    student = tmp_path / 'student.py'
    plain = Config.fromfile(write('resnet', 'plain', classes=10))
    loader = plain.train_dataloader.to_dict()
    student.write_text(
        'from mmpretrain.models import ImageClassifier\n'
        f'model = dict({dict(plain.model.to_dict(), type=None)!r})\n'
        "model['type'] = ImageClassifier\n"
        f'data_preprocessor = {plain.data_preprocessor.to_dict()!r}\n'
        "default_scope = 'mmpretrain'\n"
        f'train_dataloader = {loader!r}\n'
        f'train_cfg = {plain.train_cfg.to_dict()!r}\n'
        f'optim_wrapper = {plain.optim_wrapper.to_dict()!r}\n'
    )
    teacher = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    weights = write('resnet', 'teacher', classes=10)
    checkpoint = save_teacher(weights, tmp_path / 'teacher.pth')
    made = tmp_path / 'work/made.py'
    cfg = kdvit_mm.build_distillation(
        str(student), teacher, 'kd', checkpoint, out=made
    )
    assert "_base_ = 'student.py'" in made.read_text()
    assert cfg.model.teacher == dict(cfg_path=teacher)
    gradients(cfg)


def test_the_package_stays_light():
    code = (
        'import sys, kdvit_mm; sys.exit("kdvit_mm.autodistill" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
    with pytest.raises(AttributeError, match='distil_everything'):
        _ = kdvit_mm.distil_everything


def test_config_text_is_what_was_meant():
    values = dict(
        _base_='a.py',
        model=dict(
            type='A', empty={}, several=[1, 2], one=(3,), lines=['x' * 60] * 2
        ),
        custom={'back.bone': dict(lr=1e-3), 'b': None},
    )
    comments = {('model', 'several'): 'word ' * 40, ('custom',): 'Short.'}
    text = format_config(values, comments)
    found: dict = {}
    exec(text, found)
    assert {key: found[key] for key in values} == values
    assert '# Short.\ncustom = ' in text
    assert max(len(line) for line in text.splitlines()) < 80


def run(*args, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools/distill.py'), *map(str, args)],
        capture_output=True,
        text=True,
        **options,
    )


@pytest.mark.slow
@pytest.mark.usefixtures('forked')
def test_the_command_goes_all_the_way(write, tmp_path):
    student = write('resnet', 'student')
    teacher = write('resnet', 'teacher')
    checkpoint = save_teacher(teacher, tmp_path / 'teacher.pth')
    common = (
        student, '--teacher', teacher, '--teacher-ckpt', checkpoint,
        '--method', 'kd',
    )  # fmt: skip
    done = run(*common, '--dry-run', '--work-dir', 'dry', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / 'dry').iterdir()] == [
        'kd_teacher_student.py'
    ]
    done = run(*common, '--auto-weight', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = Config.fromfile(
        tmp_path / 'work_dirs/kd_teacher_student/kd_teacher_student.py'
    )
    assert made.custom_hooks[-1].type == 'kdvit_mm.AutoLossWeightHook'
    assert 'This config can train' in done.stdout
    exported = tmp_path / 'work_dirs/kd_teacher_student/student.pth'
    state = torch.load(exported, weights_only=False)['state_dict']
    cfg = Config.fromfile(student)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        MODELS.build(cfg.model).load_state_dict(state)
    assert set(state) == set(torch.load(checkpoint, weights_only=True))


@pytest.mark.slow
@pytest.mark.usefixtures('forked')
def test_the_command_ends_with_status_2(write, tmp_path):
    student = write('gfl', 'student')
    done = run(
        student, '--teacher', student, '--method', 'fdg',
        '--work-dir', tmp_path / 'work', cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'There is no method "fdg". Methods for Detection: ' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize(
    'config',
    sorted((ROOT / 'configs/examples').glob('*.py')),
    ids=lambda path: path.stem,
)
def test_an_example_builds(config):
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(model_config(cfg))
    assert sum(p.numel() for p in model.parameters()) > 1e6
    assert 'head' not in cfg


def test_the_page_shows_what_there_is(tmp_path):
    page = (ROOT / 'docs/distill_command.md').read_text()
    commands = re.findall(r'python (tools/\S+) ([^`]*?)\n(?!    )', page)
    assert len(commands) == 4
    for tool, arguments in commands:
        for name in [tool, *re.findall(r'configs/\S+\.py', arguments)]:
            assert (ROOT / name).is_file(), name
    methods = re.findall(r'--method (\w+)', page)
    assert {*methods} <= catalog.methods().keys()
    (text,) = re.findall(r'```python\n(# MGD.*?)```', page, re.S)
    made = tmp_path / 'work_dirs/mgd/mgd.py'
    made.parent.mkdir(parents=True)
    made.write_text(text)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    cfg = Config.fromfile(made)
    cfg.model.teacher_ckpt = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    assert [*model.distiller.distill_losses] == ['loss_mgd']
    hook = HOOKS.build(cfg.custom_hooks[-1])
    assert (hook.ratio, hook.band, hook.interval) == (0.5, 0.1, 50)
