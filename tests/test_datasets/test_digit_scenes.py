# Copyright (c) kdvit_mm contributors. All rights reserved.
import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from kdvit_mm.datasets import (
    DigitSceneParams,
    digit_scenes,
    make_digit_scenes,
)

ROOT = Path(__file__).parents[2]
SIZE = DigitSceneParams().size
PARAMS = DigitSceneParams(train=10, val=3, cls_train=2, cls_val=1, seed=3)
TASKS = {
    'detection': 'mmdet',
    'segmentation': 'mmseg',
    'classification': 'mmpretrain',
}


def read_all(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'digit_scenes'
    assert make_digit_scenes(out, PARAMS)
    return out


@pytest.fixture(scope='session')
def scenes():
    params = DigitSceneParams()
    return [
        digit_scenes.detection_scene(params, 'train', index)
        for index in range(60)
    ]


def build(task, data_root, split='train'):
    config = Config.fromfile(
        ROOT / f'configs/_base_/datasets/digits_{task}.py'
    )
    dataset = config[f'{split}_dataloader'].dataset
    dataset.data_root = str(data_root)
    # Distillation runs in mmrazor's scope.
    with DefaultScope.overwrite_default_scope('mmrazor'):
        return DATASETS.build(dataset)


def test_files_do_not_depend_on_the_number_of_processes(folder, tmp_path):
    make_digit_scenes(tmp_path / 'two', PARAMS, workers=2)
    one, two = read_all(folder), read_all(tmp_path / 'two')
    # images, masks, 10 classes of crops, 2 annotation files, the manifest
    assert len(one) == 2 * (10 + 3) + 10 * (2 + 1) + 3
    assert one == two
    assert not list(tmp_path.glob('*.partial'))


def test_seed_split_and_index_change_the_scene():
    def scene(seed, split, index):
        params = DigitSceneParams(size=64, seed=seed)
        return digit_scenes.detection_scene(params, split, index)

    first = scene(0, 'train', 1)
    again = scene(0, 'train', 1)
    assert np.array_equal(first.image, again.image)
    assert len(first.labels) > 3
    for other in ((1, 'train', 1), (0, 'val', 1), (0, 'train', 2)):
        # Not only the handwriting differs.
        assert first.labels.tolist() != scene(*other).labels.tolist()


def test_boxes_are_tight_around_the_mask(scenes):
    checked = 0
    for scene in scenes:
        assert scene.image.shape == (SIZE, SIZE, 3)
        x, y, w, h = scene.boxes.T
        assert (x >= 0).all() and (x + w <= SIZE).all()
        assert (y >= 0).all() and (y + h <= SIZE).all()
        assert set(np.unique(scene.mask)) == {0, *(scene.labels + 1)}
        assert scene.areas.sum() == (scene.mask > 0).sum()
        values, counts = np.unique(scene.labels, return_counts=True)
        for label in values[counts == 1]:
            box = scene.boxes[scene.labels == label][0]
            mask = (scene.mask == label + 1).astype(np.uint8)
            assert tuple(box) == tuple(cv2.boundingRect(mask))
            checked += 1
    assert checked > 100


def test_no_digit_is_hidden():
    # Two digits as large as the image must overlap.
    shares = []
    for seed in range(20):
        scene = digit_scenes.compose_scene(
            np.random.default_rng(seed),
            96,
            'train',
            np.array([0, 8]),
            np.array([80.0, 80.0]),
            distractors=0,
        )
        alone = digit_scenes.compose_scene(
            np.random.default_rng(seed),
            96,
            'train',
            np.array([0]),
            np.array([80.0]),
            distractors=0,
        )
        shares.append(scene.areas[0] / alone.areas[0])
    assert min(shares) >= digit_scenes.MIN_VISIBLE
    assert min(shares) < 0.9


def test_sizes_reach_from_16_px_to_most_of_the_image(scenes):
    sides = np.concatenate([scene.boxes for scene in scenes])[:, 2:].max(1)
    counts = [len(scene.labels) for scene in scenes]
    assert 13 <= sides.min() <= 19
    assert sides.max() >= 0.8 * SIZE
    # Log-uniform: each octave has its share.
    octaves = np.histogram(sides, 16 * 2.0 ** np.arange(4))[0] / len(sides)
    assert (octaves > 0.12).all()
    assert min(counts) == 1 and 5 <= max(counts) <= 6
    labels = np.concatenate([scene.labels for scene in scenes])
    assert (np.bincount(labels, minlength=10) > 0.05 * len(labels)).all()


def test_atss_assigns_objects_to_every_level(scenes):
    tool = runpy.run_path(
        str(ROOT / 'tools/dataset_converters/digit_scenes.py')
    )
    boxes = [scene.boxes * (96 / SIZE) for scene in scenes]
    objects, anchors = tool['assigned_levels'](96, boxes, 2)
    assert (objects >= [30, 60, 60, 30, 3]).all(), objects
    assert (anchors >= objects).all()
    # COCO's anchors of 256 px and more match nothing in a 96 px image.
    coco_objects, _ = tool['assigned_levels'](96, boxes, 8)
    assert coco_objects[3:].sum() == 0


def test_train_and_val_share_no_handwriting():
    train, train_labels = digit_scenes.handwritten_samples('train')
    val, val_labels = digit_scenes.handwritten_samples('val')
    assert len(train) + len(val) == 1797
    assert not {s.tobytes() for s in train} & {s.tobytes() for s in val}
    assert set(train_labels) == set(val_labels) == set(range(10))


def test_distractors_are_not_labelled():
    scene = digit_scenes.compose_scene(
        np.random.default_rng(0),
        96,
        'val',
        np.array([5]),
        np.array([20.0]),
        distractors=12,
    )
    assert scene.labels.tolist() == [5]
    assert set(np.unique(scene.mask)) == {0, 6}


def test_matching_manifest_is_reused(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob('*')}
    assert not make_digit_scenes(folder, PARAMS)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob('*')}


def test_other_parameters_or_version_make_it_anew(
    folder, tmp_path, monkeypatch
):
    out = tmp_path / 'digit_scenes'
    shutil.copytree(folder, out)
    other = replace(PARAMS, train=2, val=1)
    assert make_digit_scenes(out, other)
    assert len(list((out / 'images' / 'train').iterdir())) == 2
    assert not make_digit_scenes(out, other)
    monkeypatch.setattr(digit_scenes, 'VERSION', digit_scenes.VERSION + 1)
    assert make_digit_scenes(out, other)
    assert [p.name for p in tmp_path.iterdir()] == ['digit_scenes']


@pytest.mark.parametrize('had_one', [False, True])
def test_ctrl_c_leaves_no_half_data_set(
    folder, tmp_path, monkeypatch, had_one
):
    out = tmp_path / 'digit_scenes'
    if had_one:
        shutil.copytree(folder, out)
    write = digit_scenes._write_scene

    def interrupted(params, root, task):
        if task == ('val', 0):
            raise KeyboardInterrupt
        return write(params, root, task)

    monkeypatch.setattr(digit_scenes, '_write_scene', interrupted)
    warnings = []
    logger = digit_scenes.MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', warnings.append)
    params = replace(PARAMS, train=2, val=1)
    with pytest.raises(KeyboardInterrupt):
        make_digit_scenes(out, params)
    assert 'same command again' in warnings[0]
    assert list(tmp_path.iterdir()) == ([out] if had_one else [])
    if had_one:
        assert read_all(out) == read_all(folder)


def test_killed_generation_is_recognised_and_repaired(folder, tmp_path):
    # What a kill -9 leaves: files and the unfinished manifest.
    out = tmp_path / 'digit_scenes'
    partial = tmp_path / 'digit_scenes.partial'
    shutil.copytree(folder, partial)
    (partial / 'manifest.json').rename(partial / 'unfinished.json')
    with pytest.raises(FileNotFoundError, match='missing'):
        digit_scenes.require_digit_scenes(out)
    with pytest.raises(FileNotFoundError, match='unfinished'):
        digit_scenes.require_digit_scenes(partial)
    assert make_digit_scenes(out, PARAMS)
    assert read_all(out) == read_all(folder)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize('name', ['digit_scenes', 'digit_scenes.partial'])
@pytest.mark.parametrize('manifest', [None, '{"generator": "other"}', '['])
def test_foreign_folder_is_refused(tmp_path, name, manifest):
    foreign = tmp_path / name
    foreign.mkdir()
    (foreign / 'thesis.tex').write_text('ten years of work')
    if manifest:
        (foreign / 'manifest.json').write_text(manifest)
    before = read_all(tmp_path)
    with pytest.raises(FileExistsError, match='left as it is'):
        make_digit_scenes(tmp_path / 'digit_scenes', PARAMS)
    assert read_all(tmp_path) == before


@pytest.mark.parametrize(
    'bad', [{'size': 31}, {'train': 0}, {'cls_val': 0}, {'seed': -1}]
)
def test_bad_parameters_are_named(bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f'{name}.*got {value}'):
        DigitSceneParams(**bad)


@pytest.mark.parametrize('task', TASKS)
def test_missing_data_set_says_how_to_make_it(task, tmp_path):
    pytest.importorskip(TASKS[task])
    with pytest.raises(
        FileNotFoundError,
        match=re.escape(
            'python tools/dataset_converters/digit_scenes.py --out '
            f'{tmp_path}/nothing'
        ),
    ):
        build(task, tmp_path / 'nothing')


def test_detection_loads(folder):
    pytest.importorskip('mmdet')
    coco = json.loads((folder / 'annotations/val.json').read_text())
    dataset = build('detection', folder, 'val')
    assert len(build('detection', folder)) == 10 and len(dataset) == 3
    for index, item in enumerate(dataset):
        assert item['inputs'].shape == (3, 96, 96)
        truth = [a for a in coco['annotations'] if a['image_id'] == index]
        instances = item['data_samples'].gt_instances
        assert instances.labels.tolist() == [
            a['category_id'] - 1 for a in truth
        ]
        xywh = np.array([a['bbox'] for a in truth], np.float32)
        xywh[:, 2:] += xywh[:, :2]
        assert np.allclose(instances.bboxes.tensor.numpy(), xywh)
    train = build('detection', folder)[0]
    side = train['inputs'].shape[-1]
    assert 81 <= side <= 96
    assert train['data_samples'].gt_instances.bboxes.tensor.max() <= side


def test_segmentation_loads(folder):
    pytest.importorskip('mmseg')
    dataset = build('segmentation', folder, 'val')
    assert len(build('segmentation', folder)) == 10 and len(dataset) == 3
    assert dataset.metainfo['classes'] == ('background', *'0123456789')
    item = dataset[0]
    mask = cv2.imread(
        str(folder / 'masks/val/000000.png'), cv2.IMREAD_GRAYSCALE
    )
    assert np.array_equal(item['data_samples'].gt_sem_seg.data[0], mask)
    train = build('segmentation', folder)[0]
    assert train['inputs'].shape == (3, 128, 128)
    assert train['data_samples'].gt_sem_seg.data.max() <= 10


def test_classification_loads(folder):
    pytest.importorskip('mmpretrain')
    dataset = build('classification', folder, 'val')
    assert len(build('classification', folder)) == 20 and len(dataset) == 10
    labels = [int(item['data_samples'].gt_label) for item in dataset]
    assert labels == list(range(10))
    assert dataset[0]['inputs'].shape == (3, 32, 32)
    assert build('classification', folder)[0]['inputs'].shape == (3, 32, 32)
