"""Chains of a teacher, assistants and a student."""

from pathlib import Path

import pytest
import yaml

from kdvit_mm.engine.assistants import small_assistants
from kdvit_mm.engine.recipe import read_recipe
from kdvit_mm.engine.stages import RecipeError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
BASES = CONFIGS / '_base_'
WIDTHS = dict(large='0.25', middle='0.125', small='0.0625')
CONFIG = """
_base_ = [
    '{bases}/models/resnet18-w{student}_cifar_small.py',
    '{bases}/datasets/digits_classification.py',
    '{bases}/schedules/adamw_10e_batch-64.py',
    '{bases}/runtime/cls_runtime.py',
    '{bases}/distillers/kd_logits.py',
]
import mmengine
model = dict(
    _delete_=True, _scope_='kdvit_mm', type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{bases}/models/resnet18-w{teacher}_cifar_small.py').model,
    teacher_ckpt='stage://{stage}', distiller=_base_.distiller)
"""


def chain(folder: Path, *sizes: str) -> Path:
    """A recipe of networks, each of which teaches the next."""
    first = f'resnet18-w{WIDTHS[sizes[0]]}_10e_digits-32.py'
    stages = dict(stage0=dict(config=str(CONFIGS / 'demo' / first)))
    for index, size in enumerate(sizes[1:], 1):
        before = f'stage{index - 1}' + ('/student' if index > 1 else '')
        text = CONFIG.format(
            bases=BASES,
            student=WIDTHS[size],
            teacher=WIDTHS[sizes[index - 1]],
            stage=before,
        )
        (folder / f'stage{index}.py').write_text(text)
        stages[f'stage{index}'] = dict(config=f'stage{index}.py', export=True)
    recipe = folder / 'recipe.yml'
    recipe.write_text(yaml.safe_dump(dict(stages=stages)))
    return recipe


@pytest.mark.parametrize(
    ('sizes', 'warned'),
    [
        (('large', 'middle', 'small'), []),
        (('large', 'small', 'middle'), ['stage1']),
        # Generations of one architecture, and a large student of a teacher.
        (('small', 'small', 'small'), []),
        (('small', 'large'), []),
        (('large', 'small', 'middle', 'large'), ['stage1', 'stage2']),
    ],
    ids='-'.join,
)
def test_assistants_smaller_than_their_students(sizes, warned, tmp_path):
    stages = read_recipe(chain(tmp_path, *sizes), tmp_path / 'out')
    found = small_assistants(stages)
    assert len(found) == len(warned)
    for warning, name in zip(found, warned, strict=True):
        assert warning.startswith(f'The assistant of "{name}" has ')


def test_the_warning_has_the_numbers(tmp_path):
    recipe = chain(tmp_path, 'large', 'small', 'middle')
    (warning,) = small_assistants(read_recipe(recipe, tmp_path / 'out'))
    assert '44,622 parameters' in warning
    assert '"stage2" with 176,402' in warning


def test_a_model_that_cannot_be_built_is_explained(tmp_path):
    recipe = chain(tmp_path, 'large', 'middle', 'small')
    content = yaml.safe_load(recipe.read_text())
    content['stages']['stage2']['cfg_options'] = {
        'model.architecture.backbone.depth': 17
    }
    recipe.write_text(yaml.safe_dump(content))
    stages = read_recipe(recipe, tmp_path / 'out')
    with pytest.raises(RecipeError, match=r'"stage2": model\.arch'):
        small_assistants(stages)
