"""The search from a config to the student's own config, and its check."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.analysis.student_search import search_student
from kdvit_mm.benchmark.run import TableRun
from kdvit_mm.benchmark.student_scores import Foretelling, foretell
from kdvit_mm.benchmark.table import TableError, read_table

ROOT = Path(__file__).resolve().parents[2]
SEARCH = ROOT / 'configs/search/diswot_resnet18-w0.25_resnet_digits-32.py'
TABLE = ROOT / 'configs/benchmark/students_digits.yaml'


@pytest.fixture
def options(digits):
    """A small search on the small data."""
    return {
        'train_dataloader.dataset.data_root': f'{digits}/',
        'train_dataloader.batch_size': 8,
        'train_dataloader.num_workers': 0,
        'train_cfg.max_epochs': 2,
        'train_cfg.num_candidates': 4,
        'train_cfg.num_mutation': 1,
        'train_cfg.num_crossover': 1,
        'model.draws': 1,
    }


@pytest.fixture
def main(monkeypatch):
    """Runs the tool in this process."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    tool = importlib.import_module('search_student')

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['search_student', *map(str, args)])
        tool.main()

    return run


def test_prints_the_ranking_and_writes_the_student(
    main, options, tmp_path, capsys
):
    given = [f'{key}={value}' for key, value in options.items()]
    main(SEARCH, '--work-dir', tmp_path / 'run', '--cfg-options', *given)
    out = capsys.readouterr().out
    assert '| rank | depth | width |' in out
    file = tmp_path / 'run' / 'student.py'
    assert f'The best is {file}.' in out
    first = out.partition('| rank')[2].splitlines()[2]
    _, rank, depth, width, *_, params, _ = map(str.strip, first.split('|'))
    assert (rank, float(params) <= 0.1) == ('1', True)
    text = file.read_text()
    assert text.startswith(f'# depth {depth}, width {width}: found by tools/')
    # An ordinary config of a classifier, which trains like its base.
    cfg = Config.fromfile(file)
    assert cfg.model.backbone.depth == int(depth)
    assert cfg.train_cfg.type == 'mmengine.EpochBasedTrainLoop'
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    count = sum(p.numel() for p in model.parameters())
    assert float(params) == pytest.approx(count / 1e6, rel=1e-3)


def test_a_config_without_a_search_is_refused(main):
    student = SEARCH.with_name('resnet8-w0.25_10e_digits-32.py')
    with pytest.raises(SystemExit, match='StudentSearchLoop'):
        main(student)
    with pytest.raises(ConfigError, match=r'train_cfg\.type is None'):
        search_student(Config(dict(model=dict())))


def test_rank_correlations():
    """Larger scores and smaller distances come with a larger metric."""
    students = [
        dict(
            name=str(i),
            reached=float(i),
            score=[1, 2, 3, 4][i],
            relation=[4, 3, 2, 1][i],
            semantic=[1, 2, 3, 4][i],
            flops=[2, 1, 4, 3][i],
            params=[1, 1, 2, 2][i],
        )
        for i in range(4)
    ]
    found = Foretelling('top-1', students)
    taus = {key: tau for key, (tau, _) in found.correlations().items()}
    assert taus == pytest.approx(
        # Of the six pairs; with ties, over the root of those without.
        dict(score=1, relation=1, semantic=-1, flops=1 / 3, params=4 / 24**0.5)
    )
    lines = found.markdown().splitlines()
    assert lines[0] == '# What foretells the top-1 of a student'
    assert [x.strip() for x in lines[4].split('|')[1:3]] == ['score', '1.00']
    assert [x.strip() for x in lines[-1].split('|')[1:3]] == ['0', '0.0']


def test_the_check_scores_the_rows_of_a_table(options, tmp_path):
    """With results that are made up: what the students have reached."""
    table = yaml.safe_load(TABLE.read_text())
    for entry in (*table['rows'], *table['teachers'].values()):
        entry['config'] = str(TABLE.parent / entry['config'])
    table['rows'] = table['rows'][3::4]
    table['rows'][0]['baseline'] = True
    table['results'] = str(tmp_path)
    file = tmp_path / 'students.yaml'
    file.write_text(yaml.dump(table))
    cfg = Config.fromfile(SEARCH)
    cfg.merge_from_dict(options | {'work_dir': str(tmp_path / 'run')})
    run = TableRun(file, tmp_path / 'out')
    with pytest.raises(TableError, match=r'0 rows have a result.*run_table'):
        foretell(cfg, run)
    names = [row['name'] for row in table['rows']]
    cells = [cell for cell in run.cells(run.table) if cell.name in names]
    for number, cell in enumerate(cells):
        cell.result_file.parent.mkdir(parents=True)
        result = dict(
            metrics={'accuracy/top1': 50 + number},
            seconds=1,
            machine='',
            torch='',
        )
        cell.result_file.write_text(json.dumps(result))
    found = foretell(cfg, TableRun(file, tmp_path / 'out'))
    assert [s['reached'] for s in found.students] == [50, 51, 52]
    assert [s['name'] for s in found.students] == names
    params = [s['params'] for s in found.students]
    assert params == sorted(params) and len({*params}) == 3
    # More than the search may choose.
    assert params[-1] > cfg.train_cfg.constraints_range.params[1]
    assert all(-3 < s['score'] < 0 for s in found.students)


def test_the_table_has_students_of_the_search():
    cfg = Config.fromfile(SEARCH)
    choices = cfg.model.mutator.choices
    table = read_table(TABLE)
    assert len(table.rows) >= 12
    for row in table.rows:
        depth, width = row.name.removeprefix('depth ').split(', width ')
        wanted = choices['depth'][depth] | choices['width'][width]
        own = {
            key.removeprefix('model.architecture.'): value
            for key, value in row.options.items()
            if key.startswith('model.architecture.')
        }
        assert own == wanted
