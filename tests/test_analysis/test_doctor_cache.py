"""What the doctor says of a cache of the teacher's records."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from kdvit_mm.analysis import diagnose
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 12
FLIP = [dict(type='RandomFlip', prob=0.5)]


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    """Noisy images of many sizes."""
    root = tmp_path_factory.mktemp('sizes')
    (root / 'images').mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(IMAGES):
        height, width = (int(v) for v in rng.integers(40, 120, 2))
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(root / 'images' / f'{i}.png'), image)
        images.append(
            dict(id=i, file_name=f'{i}.png', width=width, height=height)
        )
        annotations.append(
            dict(
                id=i,
                image_id=i,
                category_id=0,
                bbox=[4, 4, 32, 32],
                area=1024,
                iscrowd=0,
            )
        )
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=0, name='a')],
    )
    (root / 'coco.json').write_text(json.dumps(content))
    return root


@pytest.fixture
def write(data_root, tmp_path):
    """Writes a config with a cache and a training pipeline."""

    def write_config(transforms, augments=None, size=None, **cache):
        model = tiny.algorithm(cache=dict(dir=str(tmp_path / 'kept')) | cache)
        for side in ('architecture', 'teacher'):
            model[side].bbox_head.num_classes = 1
        model.architecture.data_preprocessor.update(
            batch_augments=augments, pad_size_divisor=1
        )
        resize = dict(type='Resize', scale=size or (120, 120))
        resize['keep_ratio'] = size is None
        dataset = dict(
            type='CocoDataset',
            data_root=str(data_root),
            ann_file='coco.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('a',)),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                resize,
                *transforms,
                dict(type='PackDetInputs'),
            ],
        )
        cfg = Config(
            dict(
                default_scope='mmdet',
                model=model,
                train_dataloader=dict(
                    batch_size=2,
                    num_workers=0,
                    sampler=dict(type='DefaultSampler', shuffle=True),
                    batch_sampler=dict(type='AspectRatioBatchSampler'),
                    dataset=dataset,
                ),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-8)),
            )
        )
        path = tmp_path / 'config.py'
        cfg.dump(path)
        return str(path)

    return write_config


def of_cache(found):
    assert found.errors == []
    return [text for text in found.warnings if 'teacher.cache' in text]


def test_resize_and_flip_come_back(write, tmp_path):
    found = diagnose(write(FLIP, size=(96, 64)))
    # Seven of eight views are expected; twelve images are few.
    assert 0.6 < found.caches[0].hits <= 1
    assert found.caches[0].same_pixels == found.caches[0].hits
    assert of_cache(found) == []
    cells = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 * 1
    # 16 channels of 2 bytes; the rest is the file's own.
    assert 0 < found.caches[0].image_bytes - 32 * cells < 3000
    assert found.caches[0].epoch_bytes == IMAGES * found.caches[0].image_bytes
    assert found.caches[0].free_bytes > 0
    assert not (tmp_path / 'kept').exists(), 'nothing stays behind'


def test_without_flip_all_come_back(write):
    assert diagnose(write([], size=(96, 64))).caches[0].hits == 1


def test_padding_is_told_apart(write):
    found = diagnose(write([]))
    assert found.caches[0].same_pixels == 1
    assert found.caches[0].hits < 0.9
    (warning,) = of_cache(found)
    assert 'only' in warning and 'BatchFixedSizePad' in warning


def test_batches_of_one_shape(write):
    augments = [dict(type='BatchFixedSizePad', size=(128, 128))]
    found = diagnose(write([], augments))
    assert found.caches[0].hits == found.caches[0].same_pixels == 1
    assert of_cache(found) == []


@pytest.mark.parametrize(
    'transform',
    [
        dict(type='RandomCrop', crop_size=(24, 24)),
        dict(type='PhotoMetricDistortion'),
    ],
    ids=lambda transform: transform['type'],
)
def test_random_views_do_not_come_back(write, transform):
    found = diagnose(write([transform]))
    assert found.caches[0].hits == found.caches[0].same_pixels == 0
    (warning,) = of_cache(found)
    assert 'none came with the same pixels twice' in warning


def test_a_strict_cache_refuses_them(write):
    found = diagnose(write([dict(type='PhotoMetricDistortion')], strict=True))
    assert found.exit_status == 1
    assert 'cache.strict: of 16 images, none' in found.errors[0]
    found = diagnose(write(FLIP, strict=True))
    assert found.errors == []


def test_too_little_room(write):
    found = diagnose(write([], size=(96, 64), max_bytes=20_000))
    (warning,) = of_cache(found)
    assert 'max_bytes=20000 keeps 2e-05 GB' in warning
    assert 'cache.levels' in warning


@pytest.mark.usefixtures('forked')
def test_the_command_shows_it(write):
    done = subprocess.run(
        [
            sys.executable,
            ROOT / 'tools/analysis/doctor.py',
            write([], size=(96, 64)),
            '--device=cpu',
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, CUDA_VISIBLE_DEVICES=''),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'hits in the fourth epoch' in done.stdout
    assert '100%' in done.stdout


def test_several_teachers_are_examined_one_by_one(write, tmp_path):
    path = write([], size=(96, 64))
    cfg = Config.fromfile(path)
    teacher = cfg.model.pop('teacher')
    cache = cfg.model.pop('cache')
    cfg.model.type = 'MultiTeacherDistill'
    other = copy.deepcopy(teacher)
    other.data_preprocessor.mean = [1.0, 2.0, 3.0]
    cfg.model.teachers = [
        dict(name='a', teacher=teacher, cache=cache),
        dict(
            name='b',
            teacher=other,
            cache=dict(dir=str(tmp_path / 'b')),
            teacher_input=dict(own_preprocessor=True),
        ),
    ]
    recorder = cfg.model.distiller.teacher_recorders.pop('rec')
    for name in 'ab':
        cfg.model.distiller.teacher_recorders[name] = dict(
            recorder, source=f'{name}.neck'
        )
    for n, mapping in enumerate(
        cfg.model.distiller.loss_forward_mappings.values()
    ):
        mapping.preds_T.recorder = 'ab'[n % 2]
    cfg.dump(path)
    found = diagnose(path)
    assert found.errors == []
    assert [x.teacher for x in found.caches] == ['teacher.a', 'teacher.b']
    assert all(x.hits == 1 and x.image_bytes > 0 for x in found.caches)
    assert found.weights.keys() == {'student', 'teacher.a', 'teacher.b'}
    for name in 'ab':
        untrained = f'The teacher "{name}" looks untrained'
        assert any(untrained in text for text in found.warnings)
    assert not any('The teacher expects' in x for x in found.warnings)
    cfg.model.teachers[1].pop('teacher_input')
    cfg.dump(path)
    found = diagnose(path)
    assert any('expects mean=[1.0, 2.0, 3.0]' in x for x in found.warnings)
