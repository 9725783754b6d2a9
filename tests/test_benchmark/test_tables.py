"""The table files of configs/benchmark."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from kdvit_mm.benchmark.cells import make_cells
from kdvit_mm.benchmark.derived import (
    schedule_length,
    weight_options,
    weight_trials,
    with_equal_time,
)
from kdvit_mm.benchmark.table import Table, read_table
from kdvit_mm.engine.recipe import read_recipe
from kdvit_mm.engine.stages import read
from tests.tables import ROOT

TABLES = {
    file.stem: read_table(file)
    for file in sorted((ROOT / 'configs/benchmark').glob('*.yaml'))
}
#: Those whose rows are trained until they have converged.
TRAINED = {name: t for name, t in TABLES.items() if t.equal_time}
REAL = sorted((ROOT / 'configs/real').glob('*.py'))


def entries(table: Table) -> dict[str, Config]:
    """Configs of the teachers and rows, with their options."""
    return {
        entry.name: read(entry.config, entry.options)
        for entry in [*table.teachers, *table.rows]
    }


@pytest.mark.parametrize('name', TRAINED)
def test_cells_are_made(name, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    # Seeds differ in nothing else.
    table = replace(TABLES[name], seeds=[0])
    full = with_equal_time(table, {row.name: 1.5 for row in table.rows})
    cells = make_cells(full, tmp_path, None)
    assert len(cells) == len(table.teachers) + len(full.rows)
    roots = {read(cell.config, {}).data_root for cell in cells}
    assert len(roots) == 1, 'one data set'
    grid = table.weights_grid
    trials = weight_trials(table)
    methods = [row for row in table.rows if weight_options(row, 1)]
    assert len(trials.rows) == len(methods) * len(grid.factors if grid else [])
    for row in methods:
        assert row.teacher, row.name
    rows = [replace(row, against=None) for row in table.rows if row.baseline]
    make_cells(replace(trials, rows=[*rows, *trials.rows]), tmp_path, None)


@pytest.mark.parametrize('name', TRAINED)
def test_rows_can_converge(name):
    table = TRAINED[name]
    for entry, cfg in entries(table).items():
        _, length = schedule_length(cfg)
        schedulers = cfg.param_scheduler
        if len(schedulers) == 1:  # tokens and heads learned on a teacher
            continue
        assert schedulers[1].T_max == length, entry
        stages = [row.name for row in table.rows if row.baseline]
        if 'stage' in entry:
            assert entry in stages
            continue
        assert cfg.train_cfg.val_interval <= length / 4, entry
    grid = table.weights_grid
    assert grid and 1 in grid.factors
    for teacher in table.teachers:
        learned = 'teacher' in teacher.name and not teacher.checkpoint
        assert (teacher.patience is not None) == learned


def test_configs_on_real_images_are_those_of_the_tables():
    used = {
        entry.config.resolve()
        for table in TABLES.values()
        for entry in [*table.teachers, *table.rows]
    }
    assert {c for c in used if c.parent.name == 'real'} == {*REAL}
    stages = read_recipe(ROOT / 'configs/recipes/real.yml', 'none')
    assert {stage.config.resolve() for stage in stages} == {
        teacher.config.resolve()
        for table in TABLES.values()
        for teacher in table.teachers
        if teacher.config.parent.name == 'real' and not teacher.checkpoint
    }


@pytest.mark.parametrize('config', REAL, ids=lambda c: c.stem)
def test_models_on_real_images_are_built(config: Path):
    cfg = read(config, {})
    assert cfg.custom_imports.imports == ['kdvit_mm']
    if 'distiller' in cfg.model:
        assert cfg.model.teacher_ckpt == f'stage://{cfg.teacher}'
        teacher = read(ROOT / f'configs/real/{cfg.teacher}.py', {})
        assert teacher.model.to_dict() == cfg.model.teacher.to_dict()
        cfg.model.teacher_ckpt = None
        for loss in cfg.model.distiller.distill_losses.values():
            loss.pop('prompt_ckpt', None)
    scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
    # Weights need not be drawn, but mmpretrain's ResNet computes with tensors.
    device = 'cpu' if cfg.default_scope == 'mmpretrain' else 'meta'
    with scope, torch.device(device):
        model = MODELS.build(cfg.model)
    if 'distiller' in cfg.model:
        student, teacher = (
            sum(p.numel() for p in side.parameters())
            for side in (model.student, model.teacher)
        )
        assert 3 * student < teacher
