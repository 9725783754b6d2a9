import copy
import functools
import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kdvit_mm.catalog import TASKS, procedures
from kdvit_mm.engine.recipe import read_recipe
from tests import tiny
from tests.loss_checks import classification_batch

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
# The full-scale ones have tests of their own, in test_configs_full.py.
RUNNABLE = sorted((ROOT / 'configs/demo').glob('*.py'))
#: Ways of training have a test of their own, test_procedures.py.
PROCEDURES = tuple(
    f'{name}_' if name != 'ban' else 'ban-'
    for task in TASKS
    for name in procedures(task)
)
DISTILLED = [
    c
    for c in RUNNABLE
    if re.match('[a-z-]+_(fpn|head|roi)|.*_resnet18-w0.25_resnet18', c.stem)
    and not re.match('sskd_head|[a-z]+_finetune', c.stem)
    and not c.stem.startswith(PROCEDURES)
]
SEGMENTED = [c for c in RUNNABLE if 'pspnet_r18-w0.5_fcn_' in c.stem]
#: One for each form of what tools/misc/generate_configs.py writes.
WRITTEN = re.compile(r'(?!annealing|mlld|ofd|sskd_head)\S+_resnet18-w0.25')

parsed = functools.cache(Config.fromfile)


def without_checkpoints(config: Path) -> Config:
    """A config whose teachers and prompts are not there yet."""
    cfg = copy.deepcopy(parsed(config))
    for model in (cfg.model, *cfg.model.get('teachers', ())):
        if 'teacher' in model:
            model.teacher_ckpt = None
    if 'distiller' in cfg.model:
        for loss in cfg.model.distiller.distill_losses.values():
            loss.pop('prompt_ckpt', None)
            if 'head_ckpt' in loss:
                loss.head_ckpt = None
    init_default_scope(cfg.default_scope)
    return cfg


def test_basenames_are_unique_for_mim():
    names = Counter(config.name for config in CONFIGS)
    assert [name for name, count in names.items() if count > 1] == []


def test_nothing_inherits_from_what_is_trained():
    folder = ROOT / 'configs'
    for config in CONFIGS:
        own = config.relative_to(folder).parts[0]
        files = re.findall(
            r"{{ fileDirname }}/([^']+)'", config.read_text()
        ) + Config._get_base_files(str(config))
        for file in files:
            if '::' not in file:
                base = (config.parent / file).resolve(strict=True)
                kind = base.relative_to(folder).parts[0]
                assert kind in (own, '_base_', 'students'), config


@pytest.mark.parametrize(
    'config',
    [c for c in RUNNABLE if not WRITTEN.match(c.stem)],
    ids=lambda c: c.stem,
)
def test_config_builds_and_survives_a_dump(config):
    cfg = parsed(config)
    assert cfg.custom_imports.imports == ['kdvit_mm']
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.to_dict() == cfg.to_dict()
    model = MODELS.build(without_checkpoints(config).model)
    sides = ('student', 'teacher') if 'teacher' in cfg.model else ()
    if config.stem.startswith(PROCEDURES):
        sides = ()
    sizes = [
        sum(p.numel() for p in getattr(model, s).parameters()) for s in sides
    ]
    assert not sizes or 3 * sizes[0] < sizes[1], 'a student is much smaller'


def batch_of(cfg: Config) -> dict:
    """Random data of the kind that a demo trains on."""
    if cfg.default_scope == 'mmdet':
        return tiny.detection_batch(2, 96)
    if cfg.default_scope == 'mmseg':
        head = cfg.model.architecture.decode_head
        return tiny.segmentation_batch(2, 64, head.num_classes)
    batch = classification_batch()
    if 'TwoView' in cfg.model.architecture.data_preprocessor.type:
        batch['inputs'] = [batch['inputs'], batch['inputs'][::-1]]
    return batch


@pytest.mark.parametrize(
    'config',
    [*(c for c in DISTILLED if 'digits' in c.stem), *SEGMENTED],
    ids=lambda c: '-'.join(c.stem.split('_')[:2]),
)
def test_every_method_of_the_demo_takes_a_step(config):
    torch.manual_seed(0)
    cfg = without_checkpoints(config)
    model = MODELS.build(cfg.model)
    model.train()
    batch = model.data_preprocessor(batch_of(cfg), True)
    losses = model(**batch, mode='loss')
    names = {f'distill.{name}' for name in model.distiller.distill_losses}
    assert names <= set(losses)
    total, logged = model.parse_losses(losses)
    total.backward()
    for name in names:
        assert 0 < logged[name] < float('inf'), name
    first = next(model.student.backbone.parameters())
    assert 0 < first.grad.norm() < float('inf')


def test_demo_names_its_configs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    demo = importlib.import_module('demo')
    named = {
        name
        for task in demo.TASKS
        for method, configs in demo.demos(task).items()
        for data in configs
        for name in demo.find_recipe(task, data, method)[:3]
    }
    stages = read_recipe(ROOT / 'configs/recipes/demo.yml', 'none')
    named |= {stage.name for stage in stages}
    assert named == {config.stem for config in RUNNABLE}
    for task, method in demo.DEFAULTS.items():
        assert 'digits' in demo.demos(task)[method]


def test_teacher_is_the_stage_that_the_config_names():
    distilled = [
        config
        for config in map(parsed, RUNNABLE)
        if 'teacher_ckpt' in config.model
    ]
    assert len(distilled) > 60
    for cfg in distilled:
        assert cfg.model.teacher_ckpt == f'stage://{cfg.teacher}'
        name, _, part = cfg.teacher.partition('/')
        teacher = parsed(ROOT / f'configs/demo/{name}.py').model
        if part == 'student':
            teacher = teacher.architecture
        assert teacher.to_dict() == cfg.model.teacher.to_dict()


def test_config_in_the_readme_builds(tmp_path):
    code = re.search(
        r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S
    )
    assert code is not None
    student = ROOT / 'configs/demo/gfl_r18-w0.125_fpn_4e_digits-96.py'
    text = code[1].replace("'./my_student.py'", repr(str(student)))
    # No download here; the published teacher has 256 channels in its neck.
    text = text.replace('pretrained=True', 'pretrained=False')
    config = tmp_path / 'my_distillation.py'
    config.write_text(text)
    cfg = Config.fromfile(config)
    cfg.model.teacher = Config.fromfile(
        ROOT / 'configs/demo/gfl_r18-w0.5_fpn_12e_digits-96.py'
    ).model
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert type(model.distiller.distill_losses.loss_cwd).__name__ == 'CWDLoss'


def test_model_index_and_metafiles_point_at_what_is_there():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    metafiles = {ROOT / name for name in index['Import']}
    assert metafiles == set((ROOT / 'configs').rglob('metafile.yml'))
    for metafile in metafiles:
        for model in yaml.safe_load(metafile.read_text())['Models']:
            assert (ROOT / model['Config']).is_file(), model['Name']
