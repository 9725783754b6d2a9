"""The configs of the ways of training: steps, chains and recipes."""

import copy
import importlib
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from kdvit_mm.catalog import procedures
from kdvit_mm.engine.assistants import small_assistants
from kdvit_mm.engine.recipe import read_recipe
from kdvit_mm.models.utils.student_config import student_config
from tests import tiny
from tests.loss_checks import classification_batch
from tests.test_configs_full import offline

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
TASKS = ('Detection', 'Segmentation', 'Classification')
FOLDERS = {m.folder for task in TASKS for m in procedures(task).values()}
DEMOS = [
    name
    for task in TASKS
    for method in procedures(task).values()
    for names in method.demo.values()
    for name in names
]
FULL = sorted(
    [c for folder in FOLDERS for c in folder.glob('*.py')]
    + [*(CONFIGS / 'distill/mmpretrain/fitnets').glob('fitnets-stages*.py')]
)
RECIPES = dict(
    Classification='cifar100', Detection='coco', Segmentation='cityscapes'
)


def build(cfg: Config):
    """The model of a config without what is downloaded or trained before."""
    model = offline(copy.deepcopy(cfg._cfg_dict)).model
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = MODELS.build(model)
        built.init_weights()
    built.train()
    return built


def batch_of(cfg: Config) -> dict:
    if cfg.default_scope == 'mmdet':
        return tiny.detection_batch(2, 128)
    if cfg.default_scope == 'mmseg':
        head = cfg.model.architecture.decode_head
        return tiny.segmentation_batch(2, 64, head.num_classes)
    return classification_batch()


def take_a_step(config: Path) -> None:
    cfg = Config.fromfile(config)
    model = build(cfg)
    losses = model(**model.data_preprocessor(batch_of(cfg), True), mode='loss')
    total, logged = model.parse_losses(losses)
    total.backward()
    distiller = getattr(model, 'distiller', None)
    for name in distiller.distill_losses if distiller else ():
        value = logged[f'distill.{name}']
        # Equal networks, as an average is at first, have nothing to learn.
        assert 0 <= value < float('inf'), name
        assert value > 0 or config.stem.startswith(('ema', 'ban')), name
    assert all(
        weight.grad.isfinite().all()
        for weight in model.parameters()
        if weight.grad is not None
    )


def named(config: Path | str) -> str:
    return getattr(config, 'stem', config)


def test_there_are_ways_of_training_for_each_task():
    names = {task: {*procedures(task)} for task in TASKS}
    assert names['Classification'] == {
        'takd', 'ban', 'mutual', 'multi', 'eskd', 'byot', 'ema', 'dot', 'kcd'
    }  # fmt: skip
    assert names['Detection'] == names['Classification'] - {'byot'}
    assert names['Segmentation'] == {'byot'}


@pytest.mark.parametrize('name', DEMOS)
def test_demo_takes_a_step(name):
    take_a_step(CONFIGS / f'demo/{name}.py')


@pytest.mark.parametrize('config', FULL, ids=named)
def test_full_scale_config_takes_a_step(config):
    if not {'r101', 'r50', 'x101-32x4d'} & {*config.stem.split('_')}:
        take_a_step(config)
    cfg = Config.fromfile(config)
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.to_dict() == cfg.to_dict()


@pytest.mark.parametrize('config', FULL, ids=named)
def test_full_scale_config_is_in_a_recipe(config, tmp_path):
    task = {
        'mmpretrain': 'Classification',
        'mmdet': 'Detection',
        'mmseg': 'Segmentation',
    }[config.parent.parent.name]
    recipe = CONFIGS / f'recipes/{RECIPES[task]}.yml'
    stages = read_recipe(recipe, tmp_path, [config])
    assert stages[-1].config.samefile(config)
    assert small_assistants(stages) == []


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        (
            'takd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32',
            ['resnet18-w0.25', 'takd_assistant', 'takd_logits'],
        ),
        (
            'ban-2_logits_resnet18-w0.0625_resnet18-w0.0625_10e_digits-32',
            ['resnet18-w0.0625', 'ban-1_logits', 'ban-2_logits'],
        ),
        (
            'eskd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32',
            ['eskd_teacher', 'eskd_logits'],
        ),
        (
            'fitnets-stages_logits_resnet18-w0.25_resnet18-w0.0625_10e_'
            'digits-32',
            ['resnet18-w0.25', 'fitnets-stages_hint', 'fitnets-stages_log'],
        ),
    ],
)
def test_chain(name, expected, tmp_path):
    """Each network is the next one's teacher."""
    stages = read_recipe(
        CONFIGS / 'recipes/demo.yml', tmp_path, [CONFIGS / f'demo/{name}.py']
    )
    assert len(stages) == len(expected)
    for stage, start in zip(stages, expected, strict=True):
        assert stage.name.startswith(start)
    for stage in stages[1:]:
        cfg = Config.fromfile(stage.config)
        need = stage.needs.get('model.teacher_ckpt')
        taught = student_config(Config.fromfile(need.stage.config)).model
        teacher = cfg.model.teacher.to_dict()
        assert taught.backbone.to_dict() == teacher['backbone']
        assert taught.head.to_dict() == teacher['head']


@pytest.mark.parametrize('name', [x for x in DEMOS if x.startswith('multi')])
def test_each_of_several_teachers_is_what_a_stage_leaves(name, tmp_path):
    *_, stage = read_recipe(
        CONFIGS / 'recipes/demo.yml', tmp_path, [CONFIGS / f'demo/{name}.py']
    )
    teachers = Config.fromfile(stage.config).model.teachers
    assert len(stage.needs) == len(teachers) == 2
    for number, teacher in enumerate(teachers):
        need = stage.needs[f'model.teachers.{number}.teacher_ckpt']
        left = student_config(Config.fromfile(need.stage.config)).model
        assert left.backbone.to_dict() == teacher.teacher.backbone.to_dict()


def test_generations_start_from_weights_of_their_own():
    configs = sorted(CONFIGS.rglob('ban-*.py'))
    assert len(configs) == 9
    for config in configs:
        number = int(config.stem[4])
        assert Config.fromfile(config).randomness.seed == number


def test_a_way_of_training_is_no_method_of_the_command():
    from kdvit_mm.analysis.configs import ConfigError

    autodistill = importlib.import_module('kdvit_mm.autodistill')

    class Probe:
        task, kind, side = 'Classification', 'ImageClassifier', 'student'

    with pytest.raises(ConfigError, match=r'way of training.*ways_of_trai'):
        autodistill.find_method('takd', Probe, Probe)
