"""Real tables: classifiers of 32 px crops, trained for one epoch each."""

import csv
import json
import os
import re
import shutil
import signal
import sys
import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from kdvit_mm.benchmark.cells import choose_cells, make_cells
from kdvit_mm.benchmark.report import Line, compare, render_markdown
from kdvit_mm.benchmark.table import TableError, read_table
from kdvit_mm.engine.stages import Stage
from tests.tables import BIG, ROOT, SMALL, describe, write

pytestmark = pytest.mark.usefixtures('forked')


@pytest.fixture(scope='module')
def run_table():
    """The tool as a module."""
    file = ROOT / 'tools' / 'benchmark' / 'run_table.py'
    spec = spec_from_file_location('run_table', file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Run:
    """Calls of the tool in one folder."""

    def __init__(self, module, folder: Path, data: Path) -> None:
        self.module, self.folder, self.data = module, folder, data
        self.out = folder / 'out'
        self.cache = folder / 'cache'

    def __call__(self, table: Path, *options: str) -> int | str:
        """Runs the tool; returns what it hands to ``sys.exit``."""
        handlers = {
            number: signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        argv = [
            'run_table.py', str(table), '--out', str(self.out),
            '--data-root', str(self.data), *options,
        ]  # fmt: skip
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, 'argv', argv)
                patch.setenv('XDG_CACHE_HOME', str(self.cache))
                self.module.main()
        except SystemExit as end:
            return end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return 0

    def lines(self) -> dict[str, dict]:
        table = json.loads((self.out / 'table.json').read_text())
        return {line['name']: line for line in table['lines']}

    def folder_of(self, name: str, seed: int | str = 0) -> Path:
        if name == 'big':
            (folder,) = self.cache.glob('kdvit_mm/teachers/*')
            return folder
        return self.out / name.lower() / f'seed_{seed}'

    def snapshot(self) -> dict[Path, int]:
        return {
            file: file.stat().st_mtime_ns
            for file in self.out.glob('*/seed_*/**/*')
            if file.name != 'lock'
        }


def last_validation(folder: Path) -> dict:
    file = max(folder.glob('*/vis_data/scalars.json'))
    return json.loads(file.read_text().splitlines()[-1])


@pytest.fixture(scope='module')
def finished(run_table, digits, tmp_path_factory) -> Run:
    """A table of a teacher, two good rows and two that fail."""
    folder = tmp_path_factory.mktemp('table')
    run = Run(run_table, folder, digits)
    rows = describe()['rows']
    broken = {'optim_wrapper.optimizer.type': 'Nothing'}
    rows.append(dict(name='broken', config=str(SMALL), options=broken))
    needs = {'model.init_cfg.checkpoint': '{broken}'}
    rows.append(dict(name='in need', config=str(SMALL), options=needs))
    columns = [
        dict(name='kd', key='distill.loss_kd', reduce='mean', scale=1000)
    ]
    run.table = write(folder / 'table.yaml', rows=rows, columns=columns)
    run.status = run(run.table, '--jobs', '2', '--timing-rounds', '3')
    return run


@pytest.mark.slow
def test_values_are_those_of_the_logs(finished):
    assert finished.status.startswith('Failed: ')
    assert set(finished.status[8:].split('; ')) == {
        f'{row}, seed {seed}'
        for row in ('broken', 'in need')
        for seed in (0, 1)
    }
    lines = finished.lines()
    assert list(lines) == ['big', 'alone', 'KD', 'broken', 'in need']
    for name, seeds in (('big', 1), ('alone', 2), ('KD', 2)):
        assert len(lines[name]['values']) == seeds
        for seed, value in lines[name]['values'].items():
            cell = finished.folder_of(name, seed)
            assert value == last_validation(cell)['accuracy/top1']
            result = json.loads((cell / 'result.json').read_text())
            assert result['metrics'] == last_validation(cell)
            assert result['seconds'] > 0 and len(result['fingerprint']) == 64
            assert 'cores of' in result['machine']
    for seed, value in lines['KD']['columns']['kd'].items():
        (file,) = finished.out.glob(f'kd/seed_{seed}/*/vis_data/scalars.json')
        logged = [json.loads(line) for line in file.read_text().splitlines()]
        steps = [r['distill.loss_kd'] for r in logged if 'loss' in r]
        assert value == pytest.approx(1000 * sum(steps) / len(steps))
    assert lines['alone']['columns'] == {}
    differences = [
        lines['KD']['values'][seed] - lines['alone']['values'][seed]
        for seed in ('0', '1')
    ]
    assert lines['KD']['difference']['mean'] == sum(differences) / 2
    assert lines['KD']['against'] == 'alone'


@pytest.mark.slow
def test_missing_rows_stay_in_the_table(finished):
    text = (finished.out / 'table.md').read_text()
    cells = {
        line.split('|')[1].strip(): [
            cell.strip() for cell in line.replace('\\|', '').split('|')[2:-1]
        ]
        for line in text.splitlines()
        if line.startswith('|')
    }
    assert cells['method'] == [
        'top-1', 'Δ top-1', 'verdict', 'kd', 'step time ratio',
        'step MiB', 'seconds', 'published', 'source', 'n',
    ]  # fmt: skip
    few = 'too few seeds'
    assert cells['broken'] == ['-', '-', few, *['-'] * 6, '0/2']
    assert cells['KD'][7:] == ['1.5', 'a  b', '2']
    assert cells['big'][-1] == '1' and cells['alone'][4] == '1.00'
    command = f'run_table.py {finished.table} --data-root DATA_ROOT`'
    assert command in text and str(finished.data) not in text
    rows = list(csv.DictReader((finished.out / 'table.csv').open()))
    assert [row['method'] for row in rows] == list(finished.lines())
    assert rows[3]['top-1'] == '' and rows[3]['top-1 n'] == '0'
    assert rows[2]['verdict'] == 'too few seeds'


@pytest.mark.slow
def test_step_times_are_ratios_within_a_round(finished):
    timing = json.loads((finished.out / 'table.timing.json').read_text())
    assert list(timing) == ['alone', 'KD']
    assert timing['alone']['seconds'] == timing['KD']['against']
    # 40 crops, in batches of 8.
    assert timing['KD']['steps'] == 5
    pairs = zip(timing['KD']['seconds'], timing['KD']['against'], strict=True)
    ratios = sorted(own / base for own, base in pairs)
    assert len(ratios) == 3
    assert finished.lines()['KD']['step_ratio'] == ratios[1] > 1
    assert finished.lines()['KD']['step_memory'] > 0.5


@pytest.mark.slow
def test_nothing_is_run_twice(finished, capsys):
    before, timing = finished.snapshot(), finished.out / 'table.timing.json'
    measured = timing.read_text()
    text = (finished.out / 'table.md').read_text()
    options = ('--rows', 'alone', 'KD')
    assert finished(finished.table, *options) == 0
    assert '5 of 5 cells are finished' in capsys.readouterr().out
    assert finished.snapshot() == before
    options = ('--jobs', '2', '--timing-rounds', '3', '--report-only')
    assert finished(finished.table, *options) == 0
    assert (finished.out / 'table.md').read_text() == text
    assert timing.read_text() == measured


@pytest.mark.slow
def test_changed_options_are_refused(finished):
    changed = write(
        finished.folder / 'changed.yaml',
        options=describe()['options'] | {'train_dataloader.batch_size': 4},
    )
    before = finished.snapshot()
    message = finished(changed)
    assert '"alone, seed 0" was run with another config' in message
    assert f'Remove {finished.out / "alone" / "seed_0"}' in message
    # A change of the teacher is one of all that is distilled from it.
    teachers = describe()['teachers']
    teachers['big']['options']['train_cfg.max_epochs'] = 2
    shutil.rmtree(finished.folder / 'copy', ignore_errors=True)
    copy = Run(finished.module, finished.folder / 'copy', finished.data)
    shutil.copytree(finished.out / 'kd', copy.out / 'kd')
    taught = write(finished.folder / 'taught.yaml', teachers=teachers)
    assert '"KD, seed 0" was run with' in copy(taught)
    assert finished.snapshot() == before


@pytest.mark.slow
def test_a_metric_that_was_never_logged(finished):
    table = write(
        finished.folder / 'metric.yaml',
        metric=dict(name='mAP', key='coco/bbox_mAP'),
    )
    message = finished(table, '--report-only')
    assert f'{table}: metric.key "coco/bbox_mAP" was never' in message
    assert 'accuracy/top1' in message


@pytest.mark.slow
def test_interrupted_cells_are_resumed(finished, tmp_path, capsys):
    """One without its result, one killed in its last validation."""
    run = Run(finished.module, tmp_path, finished.data)
    shutil.copytree(finished.out / 'alone', run.out / 'alone')
    whole, killed = (run.out / 'alone' / f'seed_{seed}' for seed in (0, 1))
    expected = [last_validation(cell) for cell in (whole, killed)]
    for cell in (whole, killed):
        (cell / 'result.json').unlink()
        (cell / 'last_checkpoint').write_text(str(cell / 'epoch_1.pth'))
    (log,) = killed.glob('*/vis_data/scalars.json')
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(''.join(lines[:-1]))
    checkpoint = (whole / 'epoch_1.pth').stat().st_mtime_ns
    table = write(tmp_path / 'table.yaml')
    assert run(table, '--rows', 'alone', '--jobs', '2') == 0
    assert (whole / 'epoch_1.pth').stat().st_mtime_ns == checkpoint
    assert 'resumed epoch: 1' in (whole / 'output.log').read_text()
    for cell, record in zip((whole, killed), expected, strict=True):
        result = json.loads((cell / 'result.json').read_text())
        assert result['metrics']['accuracy/top1'] == record['accuracy/top1']


@pytest.mark.slow
def test_a_given_checkpoint_is_evaluated(finished, tmp_path):
    run = Run(finished.module, tmp_path, finished.data)
    shutil.copy(
        finished.folder_of('big') / 'epoch_1.pth', tmp_path / 'big.pth'
    )
    teachers = dict(big=dict(config=str(BIG), checkpoint='big.pth'))
    table = write(tmp_path / 'table.yaml', teachers=teachers)
    assert run(table, '--rows', 'big') == 0
    assert run.lines()['big']['values'] == finished.lines()['big']['values']
    assert not list(run.out.glob('big/seed_0/*.pth'))


@pytest.mark.slow
def test_a_table_grows_and_goes_on_elsewhere(
    run_table, digits, tmp_path, capsys
):
    """Planned, tuned, at equal time, and then on a second machine."""
    teachers, rows = describe()['teachers'], describe()['rows']
    teachers['big']['patience'] = 1
    teachers['big']['options'] = {
        'train_cfg.max_epochs': 20,
        'train_cfg.val_interval': 1,
        'optim_wrapper.optimizer.lr': 1e-5,
        'train_dataloader.num_workers': 0,
    }
    changes = dict(
        seeds=[0],
        equal_time=True,
        weights_grid=dict(seed=5, factors=[3]),
        results='kept',
        teachers=teachers,
        rows=rows,
    )
    here = Run(run_table, tmp_path / 'here', digits)
    kept = here.folder / 'kept'
    kept.mkdir(parents=True)
    table = write(here.folder / 'table.yaml', **changes)
    options = ('--jobs', '2', '--timing-rounds', '3')
    assert here(table, *options, '--budget', '0') == 0
    said = capsys.readouterr().out
    assert 'Plan: 0 cells fit' in said
    assert re.search(
        r'Left are 4, .*: alone \(0\); alone, equal time \(0\); '
        r'KD, weight x 3 \(5\); KD \(0\)\.',
        said,
    )
    (teacher,) = here.cache.glob('kdvit_mm/teachers/*')
    (best,) = (file.name for file in teacher.glob('best_*.pth'))
    records = kept / 'table.cells.jsonl'
    (big,) = map(json.loads, records.read_text().splitlines())
    reached = [value for _, value in big['curve']]
    top = reached.index(max(reached))
    assert len(reached) == top + 2 < 20, 'one validation without a gain'
    assert best == f'best_accuracy_top1_epoch_{top + 1}.pth'
    assert big['metrics'] == {'accuracy/top1': reached[top]}
    # What is known fits into any budget.
    assert here(table, *options, '--budget', '1') == 0
    assert 'Plan: 4 cells fit' in capsys.readouterr().out
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    found = {(line['name'], line['seed']): line for line in lines}
    assert set(found) == {
        ('big', 0), ('alone', 0), ('alone, equal time', 0),
        ('KD, weight x 3', 5), ('KD', 0),
    }  # fmt: skip
    timing = json.loads((kept / 'table.timing.json').read_text())
    ratios = sorted(
        own / base
        for own, base in zip(
            timing['KD']['seconds'], timing['KD']['against'], strict=True
        )
    )
    curve = found['alone, equal time', 0]['curve']
    assert curve[-1][0] == round(ratios[1])
    log = (here.out / 'kd' / 'seed_0' / 'output.log').read_text()
    assert best in log
    assert 'loss_weight=2.7' in log
    text = (kept / 'table.md').read_text()
    assert re.search(r'\| KD +\| +\d+\.00 \| +x 3 \|', text)
    assert str(tmp_path) not in text.replace(str(table), '')

    there = Run(run_table, tmp_path / 'there', digits)
    shutil.copytree(
        here.folder,
        there.folder,
        ignore=lambda folder, names: [
            name for name in names if name in ('out', 'cache')
        ],
    )
    records = there.folder / 'kept' / 'table.cells.jsonl'
    stale = json.dumps(found['alone', 0] | {'seed': 3, 'fingerprint': 'a'})
    old = [json.dumps(line) for key, line in found.items() if key[0] != 'KD']
    records.write_text('\n'.join([*old, stale, 'no json']))
    assert there(there.folder / 'table.yaml', *options) == 0
    said = capsys.readouterr().out
    assert '3 of 4 cells are finished' in said, 'the teacher was trained first'
    assert f'{records}:5 is not used: "alone, seed 3" is not in' in said
    assert f'{records}:6 is no record of a cell' in said
    trained = [file.parents[1].name for file in there.out.glob('*/*/result*')]
    assert trained == ['kd']
    again = json.loads(records.read_text().splitlines()[-1])
    for key in ('name', 'fingerprint', 'metrics', 'curve'):
        assert again[key] == found['KD', 0][key]
    measured = json.loads(records.with_name('table.timing.json').read_text())
    assert measured == timing


@pytest.mark.slow
def test_ctrl_c_stops_what_is_running(run_table, digits, tmp_path, capsys):
    run = Run(run_table, tmp_path, digits)
    options = describe()['options'] | {'train_cfg.max_epochs': 10000}
    table = write(tmp_path / 'table.yaml', options=options)
    log = run.out / 'alone' / 'seed_0' / 'output.log'
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.1):
            if log.is_file() and 'Epoch(train)' in log.read_text():
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        status = run(table, '--rows', 'alone')
    finally:
        ended.set()
        thread.join()
    assert status == 130
    assert 'The same command goes on' in capsys.readouterr().out
    assert 'Stopped by SIGTERM at epoch' in log.read_text()
    assert not (log.parent / 'result.json').exists()


def test_shards_are_disjoint_and_complete(tmp_path):
    table = read_table(write(tmp_path / 'table.yaml', seeds=[0, 1, 2]))
    cells = make_cells(table, tmp_path / 'out', None)
    assert [str(cell) for cell in cells] == [
        'big, seed 0', 'alone, seed 0', 'alone, seed 1', 'alone, seed 2',
        'KD, seed 0', 'KD, seed 1', 'KD, seed 2',
    ]  # fmt: skip
    for parts in (1, 2, 3, 7):
        shards = [
            choose_cells(table, cells, None, (part + 1, parts))
            for part in range(parts)
        ]
        rows = [c for shard in shards for c in shard if c.name != 'big']
        assert len(rows) == 6 and set(rows) == set(cells[1:])
        for shard in shards:
            needs_teacher = any(cell.name == 'KD' for cell in shard)
            assert (cells[0] in shard) == needs_teacher
    (only,) = choose_cells(table, cells, ['big'], (1, 1))
    assert only is cells[0]
    with pytest.raises(TableError, match='has no "FGD"'):
        choose_cells(table, cells, ['FGD'], (1, 1))


def test_fingerprint_is_of_the_run_and_not_of_the_folders(tmp_path):
    table = read_table(write(tmp_path / 'table.yaml'))
    here = make_cells(table, tmp_path / 'here', None)
    there = make_cells(table, tmp_path / 'there', '/elsewhere')
    prints = [cell.fingerprint for cell in here]
    assert prints == [cell.fingerprint for cell in there]
    assert len(set(prints)) == 5


def test_fingerprint_stays_with_and_without_watching(tmp_path):
    """Results stay valid when a hook comes or goes that only watches."""
    kept = dict(type='kdvit_mm.EpochSeedHook')
    watching = dict(type='kdvit_mm.DistillWatchHook')
    found = []
    for i, hooks in enumerate(([kept, watching], [kept], [watching], None)):
        config = tmp_path / str(i) / 'config.py'
        config.parent.mkdir()
        config.write_text('' if hooks is None else f'custom_hooks = {hooks}')
        found.append(Stage('a', config, tmp_path).fingerprint)
    assert found[0] == found[1] != found[2] == found[3]


def test_missing_seeds_are_counted(tmp_path):
    table = read_table(write(tmp_path / 'table.yaml', seeds=[0, 1, 2]))
    lines = [
        Line('alone', 3, {0: 1.0, 1: 2.0}),
        Line('KD', 3, {0: 2.0, 1: 4.0, 2: 9.0}, against='alone'),
    ]
    compare(lines)
    text = render_markdown(table, lines, {})
    assert '1.50 ± 6.35' in text and '2/3 |' in text
    assert '+1.50 ± 6.35 (2 pairs)' in text
    assert 'published' not in text, 'no line has a published figure'


def test_the_nearest_baseline_above_is_meant(tmp_path):
    names = ['a', 'b', 'c', 'd', 'e']
    rows = [dict(name=name, config=str(SMALL)) for name in names]
    rows[0]['baseline'] = rows[2]['baseline'] = True
    rows[4]['against'] = 'b'
    table = read_table(write(tmp_path / 'table.yaml', rows=rows))
    against = [row.against for row in table.rows]
    assert against == [None, 'a', None, 'c', 'b']


def row(**changes) -> list[dict]:
    alone = dict(name='alone', config=str(SMALL), baseline=True)
    return [alone, dict(name='x', config=str(SMALL)) | changes]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(title=None), 'the table has no key "title"'),
        (dict(metrics=1), 'the table has the unknown key "metrics"; known'),
        (dict(metric=dict(name='a')), 'metric .* has no key "key"'),
        (dict(metric='mAP'), "metric must be a dict, got 'mAP'"),
        (dict(seeds=[0, 0]), 'seeds has a seed twice'),
        (dict(seeds=['0']), 'seeds must be a list of integers'),
        (dict(seeds=3), 'seeds must be a list, got 3'),
        (dict(rows=[]), 'rows is empty'),
        (dict(rows=row(confg='a')), r'rows\[1\] .* unknown key "confg"'),
        (dict(rows=row(config='no.py')), r'rows\[1\] .*there is no file'),
        (dict(rows=row(teacher='huge')), 'row "x": teacher names "huge"'),
        (dict(rows=row(against='x')), 'row "x": against names "x"'),
        (dict(rows=row(name='Alone')), '"alone" and "Alone" .* the same'),
        (dict(rows=row(name='big')), '"big" and "big" .* the same'),
        (dict(rows=row(name='+')), r"the name '\+' has no letters"),
        (dict(rows=row()[1:]), 'row "x" has no baseline'),
        (dict(rows=row(options={'a.b': '{y}'})), 'the checkpoint of "y"'),
        (dict(rows=row(options={'a': {'b': 1}})), 'write dotted keys'),
        (dict(columns=[dict(name='a', key='b', reduce='max')]), 'mean or'),
        (dict(columns=[dict(name='a')]), r'columns\[0\] .* no key "key"'),
        (dict(teachers=dict(big=dict())), 'teachers.big has no key "config"'),
    ],
)
def test_mistakes_in_the_table_file(tmp_path, changes, message):
    file = write(tmp_path / 'table.yaml', **changes)
    with pytest.raises(TableError, match=message) as error:
        read_table(file)
    assert str(error.value).startswith(f'{file}: ')


def test_a_file_that_is_no_table(run_table, tmp_path):
    run = Run(run_table, tmp_path, tmp_path)
    assert 'cannot be read' in run(tmp_path / 'none.yaml')
    (tmp_path / 'bad.yaml').write_text('a: [')
    assert 'is not valid YAML' in run(tmp_path / 'bad.yaml')
    plain = write(tmp_path / 'plain.yaml', rows=row(teacher='big'))
    assert 'has no model.teacher' in run(plain)
    (tmp_path / 'wrong.py').write_text('model = dict(')
    wrong = row(config=str(tmp_path / 'wrong.py'))
    message = run(write(tmp_path / 'wrong.yaml', rows=wrong))
    assert '"x"' in message and 'wrong.py cannot be used' in message
    table = write(tmp_path / 'table.yaml')
    for options in (('--shard', '3/2'), ('--jobs', '0')):
        assert run(table, *options) == 2
