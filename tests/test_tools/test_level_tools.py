"""The tools about levels, on a run of the demo."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
import torch

from kdvit_mm.visualization import read_scalars
from tests.test_engine.test_training import DEMO
from tests.test_selection.test_hook import RL, config, run

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis'
FGD = DEMO.parent / '_base_' / 'distillers' / 'fgd_fpn_small.py'

#: Its sets are found on the very numbers that they are valued with.
LUCKY = 'best of the draw itself'

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory) -> Path:
    """Work directory of two epochs, with the teacher's weights beside it."""
    work_dir = tmp_path_factory.mktemp('levels') / 'run'
    hook = dict(probe_interval=2, dump=True)
    cfg = config(digits, work_dir, 2, hook, grad_norm=dict())
    cfg.custom_hooks[-1].probe_dataloader = cfg.train_dataloader
    model = run(cfg).model
    torch.save(model.teacher.state_dict(), work_dir / 'teacher.pth')
    torch.save(model.architecture.state_dict(), work_dir / 'alone.pth')
    return work_dir


@pytest.fixture
def tool(monkeypatch):
    """Imports a tool by its name."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return lambda name: importlib.import_module(name)


def start(tool: str, *command, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, TOOLS / f'{tool}.py', *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )


def model_options(digits: Path, work_dir: Path) -> list[str]:
    return [
        '--data-root', str(digits), '--cfg-options',
        f'model.teacher_ckpt={work_dir}/teacher.pth',
    ]  # fmt: skip


def test_level_signal(digits, trained, tmp_path):
    """Of a student alone and a distilled one, with another level loss."""
    checkpoints = [trained / 'alone.pth', trained / 'epoch_2.pth']
    done = start(
        'level_signal', DEMO / f'{RL}.py', *checkpoints, '--images', 12,
        '--draws', 2, '--level-loss', FGD, '--out', tmp_path / 'out',
        *model_options(digits, trained), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for title in (
        'quality of each level',
        'variance components of quality',
        'honest headroom',
        'R² on held-out images',
        'ways of choosing on held-out images',
    ):
        assert done.stdout.count(title) == 2
    # FGD has parameters, which neither checkpoint holds.
    assert done.stdout.count('have their initial values') == 2
    found = json.loads((tmp_path / 'out' / 'level_signal.json').read_text())
    assert found['level_loss']['type'] == 'kdvit_mm.FGDLoss'
    alone, distilled = found['checkpoints'].values()
    # Only the second has an earlier checkpoint to remember.
    memory = 'memory of earlier checkpoints'
    assert memory not in alone['r2']
    assert len(distilled['r2'].pop(memory)) == 5
    for rivals in distilled['rivals'].values():
        assert rivals.pop(memory)['worth'] <= rivals[LUCKY]['worth'] + 1e-9
    # The same weights, pixels and losses.
    assert alone == distilled
    assert alone['num_images'] == 12
    assert sum(level['cost'] for level in alone['levels']) == pytest.approx(1)
    assert [row['lambda_cost'] for row in alone['headroom']] == [
        0,
        0.3,
        0.5,
        1,
    ]
    for row in alone['headroom']:
        assert row['best'] >= row['fixed'] >= row['all_levels'] - 1e-9
    assert set(alone['rivals']) == {'0.0', '0.3', '0.5', '1.0'}
    assert set(alone['r2']) == {
        'state, ridge', 'state, boosting', 'ground truth, ridge',
        'ground truth, boosting',
    }  # fmt: skip


def test_level_signal_says_what_is_wrong(tool):
    options = dict(data_root=None, cfg_options={}, level_loss=None)
    read = tool('level_signal').read_config
    plain = DEMO / 'gfl_r18-w0.125_fpn_4e_digits-96.py'
    with pytest.raises(ValueError, match=r'0 losses of type SelectedLevels'):
        read(argparse.Namespace(config=plain, **options))
    options['level_loss'] = plain
    with pytest.raises(ValueError, match=r'no distiller\.distill_losses'):
        read(argparse.Namespace(config=DEMO / f'{RL}.py', **options))


def test_plot_levels(digits, trained, tmp_path):
    done = start(
        'plot_levels', trained, '--out', tmp_path / 'plots', '--config',
        DEMO / f'{RL}.py', '--checkpoint', trained / 'epoch_2.pth',
        '--images', 3, 5, *model_options(digits, trained), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'left out' not in done.stdout
    names = {file.stem for file in (tmp_path / 'plots').iterdir()}
    assert names == {
        'selection_by_count', 'selection_by_size', 'selection_over_training',
        'regret', 'held_out_regret', 'cost', 'grad_norm_weights',
        'quality_cost_frontier', 'image_3', 'image_5',
    }  # fmt: skip
    for name in names:
        assert mmcv.imread(tmp_path / 'plots' / f'{name}.png').std() > 0
    # What a vis_backend gets: LocalVisBackend wrote the same numbers.
    keys = {key for record in read_scalars(trained) for key in record}
    assert {'levels/cost', 'levels/weight_0', 'levels/regret_policy'} <= keys


def test_plot_levels_leaves_out_what_it_has_no_data_for(
    tool, trained, tmp_path, monkeypatch, capsys
):
    # A run that was not dumped, and one whose last line is half a line.
    lines = (trained / 'levels.jsonl').read_text()
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'levels.jsonl').write_text(lines[:-30])
    main = tool('plot_levels').main
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['plot_levels', 'a', 'b'])
    main()
    plots = tmp_path / 'plots'
    assert {str(x.relative_to(plots)) for x in plots.glob('**/*.png')} == {
        'b/selection_by_count.png', 'b/selection_by_size.png',
        'b/selection_over_training.png',
    }  # fmt: skip
    said = capsys.readouterr().out
    assert 'a/cost.png: no cost in the log' in said
    assert 'Train with dump=True' in said
    assert 'has no saved config' in said
    monkeypatch.setattr('sys.argv', ['plot_levels', 'a'])
    with pytest.raises(SystemExit, match='nothing to plot'):
        main()
    monkeypatch.setattr('sys.argv', ['plot_levels', 'missing'])
    with pytest.raises(SystemExit):
        main()
    assert 'missing is not a folder' in capsys.readouterr().err


def step_ratios(folder: Path, *args: object) -> dict[str, float]:
    tool = TOOLS.parent / 'benchmark' / 'step_time.py'
    done = start(
        tool.with_suffix(''), *args, '--size', 64, 96, '--batch', 1,
        '--rounds', 1, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cells = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in done.stdout.splitlines()
        if line.startswith('| ')
    ]
    return {name: float(ratio) for name, _, ratio, _ in cells[1:]}


def test_step_time(tmp_path):
    compiled = 'fold + channels_last + compile'
    teacher = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
    ratios = step_ratios(tmp_path, '--teacher', teacher, '--skip', compiled)
    assert ratios.pop('student + teacher to last record (bound)') == 1
    assert ratios['student alone'] < ratios["mmrazor's SingleTeacherDistill"]
    assert compiled not in ratios and len(ratios) == 10


def test_step_time_of_the_choice_of_levels(tmp_path):
    ratios = step_ratios(tmp_path, '--levels')
    assert ratios.pop('all levels (bound)') == 1
    assert len(ratios) == 4
    # Of choices and updates alone, without a step of the student.
    assert 0 < ratios['policy: choices and updates, per step'] < 0.5
