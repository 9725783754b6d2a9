import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
RUNNABLE = [c for c in CONFIGS if '_base_' not in c.parts]


def test_basenames_are_unique_for_mim():
    names = Counter(config.name for config in CONFIGS)
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize('config', RUNNABLE, ids=lambda c: c.stem)
def test_config_builds_and_survives_a_dump(config):
    cfg = Config.fromfile(config)
    assert cfg.custom_imports.imports == ['kdvit_mm']
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.to_dict() == cfg.to_dict()
    if 'distiller' in cfg.model:
        cfg.model.teacher_ckpt = None
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    sides = ('student', 'teacher') if 'distiller' in cfg.model else ()
    sizes = [
        sum(p.numel() for p in getattr(model, s).parameters()) for s in sides
    ]
    assert not sizes or 4 * sizes[0] < sizes[1], 'a student is much smaller'


def test_teacher_checkpoint_is_what_training_the_teacher_leaves():
    for config in RUNNABLE:
        cfg = Config.fromfile(config)
        if 'distiller' not in cfg.model:
            continue
        folder, name = Path(cfg.model.teacher_ckpt).parts[-2:]
        teacher = Config.fromfile(config.with_name(f'{folder}.py'))
        loop = teacher.train_cfg
        steps = loop.get('max_epochs') or loop.get('max_iters')
        assert (
            name
            == f'{"epoch" if "max_epochs" in loop else "iter"}_{steps}.pth'
        )
        assert teacher.model.to_dict() == cfg.model.teacher.to_dict()


def test_config_in_the_readme_builds(tmp_path):
    code = re.search(
        r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S
    )
    assert code is not None
    student = ROOT / 'configs/demo/gfl_r18-w0.125_fpn_10e_digits-224.py'
    text = code[1].replace("'./my_student.py'", repr(str(student)))
    # No download here; the published teacher has 256 channels in its neck.
    text = text.replace('pretrained=True', 'pretrained=False')
    config = tmp_path / 'my_distillation.py'
    config.write_text(text)
    cfg = Config.fromfile(config)
    cfg.model.teacher = Config.fromfile(
        ROOT / 'configs/demo/gfl_r18-w0.5_fpn_10e_digits-224.py'
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
