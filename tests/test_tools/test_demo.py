import importlib
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from kdvit_mm.datasets import DigitSceneParams, make_digit_scenes
from kdvit_mm.engine.recipe import read_recipe

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'demo'
NAME = 'gfl_r18-w0.5_fpn_12e_digits-96'


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    yield importlib.import_module('demo')
    sys.modules.pop('demo')


@pytest.fixture
def teacher(demo, tmp_path):
    return read_recipe(demo.RECIPE, tmp_path / 'runs', [NAME])[-1]


def test_packaged_teacher_takes_the_place_of_its_training(demo, teacher):
    demo.adopt_packaged(teacher)
    assert teacher.finished and not teacher.changed
    packaged = demo.PACKAGED / f'{NAME}.pth'
    assert Path(teacher.checkpoint).read_bytes() == packaged.read_bytes()
    assert packaged.stat().st_size < 6 * 2**20


def test_teacher_of_other_content_is_trained(demo, teacher):
    teacher.options['train_cfg.max_epochs'] = 13
    demo.adopt_packaged(teacher)
    assert not teacher.finished and not teacher.folder.exists()


def test_packaged_teacher_detects_digits(demo, tmp_path):
    root = tmp_path / 'digits'
    make_digit_scenes(
        root, DigitSceneParams(train=1, val=60, cls_train=1, cls_val=1)
    )
    cfg = Config.fromfile(CONFIGS / f'{NAME}.py')
    cfg.merge_from_dict(demo.data_options(CONFIGS / f'{NAME}.py', str(root)))
    cfg.update(work_dir=str(tmp_path), log_level='ERROR')
    cfg.load_from = str(demo.PACKAGED / f'{NAME}.pth')
    init_default_scope(cfg.default_scope)
    torch.set_num_threads(1)
    assert Runner.from_cfg(cfg).test()['coco/bbox_mAP'] > 0.5
