"""Results that are committed with a table and taken up elsewhere."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from kdvit_mm.benchmark.cells import cells_to_run, choose_cells, make_cells
from kdvit_mm.benchmark.records import Record, Records
from kdvit_mm.benchmark.report import make_lines
from kdvit_mm.benchmark.table import read_table
from kdvit_mm.datasets.preparation import identify_data
from tests.tables import write

RECORD = Record(
    name='KD',
    seed=0,
    fingerprint='abc',
    data='',
    metrics={'accuracy/top1': 50.0},
    curve=[[1, 30.0], [2, 50.0]],
    columns={},
    seconds=12.5,
    machine='2 cores of something',
    torch='2.11.0',
)


@dataclass
class Known:
    """What a record is looked up by."""

    name: str = 'KD'
    seed: int = 0
    fingerprint: str = 'abc'
    data_identity: str = ''


def test_records_come_back(tmp_path):
    file = tmp_path / 'results' / 'table.cells.jsonl'
    records = Records(file)
    assert records.find(Known()) is None
    other = replace(RECORD, seed=1, fingerprint='def', seconds=3)
    records.add(RECORD)
    records.add(other)
    for found in (records, Records(file)):
        assert found.find(Known()) == RECORD
        assert found.find(Known(seed=1, fingerprint='def')) == other
        assert found.find(Known(fingerprint='xyz')) is None
        known = [Known(), Known(seed=1, fingerprint='def')]
        assert found.unused(known) == []
    assert len(file.read_text().splitlines()) == 2


def test_data_must_be_the_same_where_they_are_known(tmp_path):
    records = Records(tmp_path / 'a.jsonl')
    records.add(replace(RECORD, data='digits'))
    assert records.find(Known(data_identity='')) is not None
    assert records.find(Known(data_identity='digits')) is not None
    assert records.find(Known(data_identity='others')) is None


def test_corrupt_lines_are_named_and_change_nothing(tmp_path):
    file = tmp_path / 'a.jsonl'
    line = json.dumps(asdict(RECORD))
    wrong = [
        line[:-20],
        '[1, 2]',
        json.dumps(asdict(RECORD) | {'seed': '0'}),
        json.dumps(asdict(RECORD) | {'what': 1}),
        '{"name": "KD"}',
    ]
    file.write_text('\n'.join([*wrong, '', line]))
    records = Records(file)
    assert records.find(Known()) == RECORD
    said = records.unused([Known()])
    assert len(said) == len(wrong)
    for number, text in enumerate(said, 1):
        assert text.startswith(f'{file}:{number} is no record of a cell (')
    assert "seed is '0'" in said[2] and 'what' in said[3]
    # The last line had no end.
    records.add(replace(RECORD, seed=1, fingerprint='def'))
    again = Records(file)
    assert again.find(Known(seed=1, fingerprint='def')) is not None
    assert again.find(Known()) == RECORD


def test_stale_lines_are_named(tmp_path):
    file = tmp_path / 'a.jsonl'
    records = Records(file)
    for change in (
        {},
        {'fingerprint': 'old'},
        {'name': 'CWD', 'fingerprint': 'cwd'},
        {'seed': 7, 'fingerprint': 'seven'},
    ):
        records.add(replace(RECORD, **change))
    said = records.unused([Known()])
    assert said == [
        f'{file}:2 is not used: "KD, seed 0" has another config, other '
        'options, another teacher or other data now. Remove the line.',
        f'{file}:3 is not used: "CWD, seed 0" is not in the table. Remove '
        'the line.',
        f'{file}:4 is not used: "KD, seed 7" is not in the table. Remove the '
        'line.',
    ]
    # A row may get another name.
    assert records.find(Known(name='KD again')) == RECORD
    assert len(records.unused([Known(name='KD again')])) == 3
    # The weight of this row is not chosen yet, and so are not its cells.
    assert len(records.unused([], ['KD', 'CWD'])) == 0


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A table, a maker of its cells and its records."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    table = read_table(write(tmp_path / 'table.yaml'))
    records = Records(tmp_path / 'a.jsonl')

    def make(folder: str = 'out', root: Path | None = None):
        return make_cells(
            table, tmp_path / folder, root and str(root), records
        )

    return table, make, records


def record_of(cell, value: float) -> Record:
    return replace(
        RECORD,
        name=cell.name,
        seed=cell.seed,
        fingerprint=cell.fingerprint,
        metrics={'accuracy/top1': value},
    )


def test_a_recorded_cell_is_not_trained_again(cells):
    table, make, records = cells
    first = make()
    assert [str(c) for c in cells_to_run(first)] == [
        'big, seed 0', 'alone, seed 0', 'alone, seed 1', 'KD, seed 0',
        'KD, seed 1',
    ]  # fmt: skip
    for number, cell in enumerate(first[:4]):
        records.add(record_of(cell, 10.0 * number))
    # On another machine: the teacher is recorded, but needed for a row.
    there = make('elsewhere')
    to_run = [str(cell) for cell in cells_to_run(there)]
    assert to_run == ['big, seed 0', 'KD, seed 1']
    alone = choose_cells(table, there, ['alone'], (1, 1))
    assert cells_to_run(alone) == []
    big, base, kd = make_lines(table, there)
    assert big.values == {0: 0.0}
    assert base.values == {0: 10.0, 1: 20.0} and kd.values == {0: 30.0}
    assert kd.seconds == {0: 12.5}
    assert kd.curves == {0: [(1, 30.0), (2, 50.0)]}


def test_teachers_are_in_the_cache_by_content_and_data(cells, tmp_path):
    _, make, _ = cells
    folders = set()
    for name, sizes in (('a', '1'), ('b', '1'), ('c', '12')):
        root = tmp_path / name
        root.mkdir()
        (root / 'image.png').write_text(sizes)
        big, alone, *_ = make('out', root)
        assert big.folder.parent == tmp_path / 'cache/kdvit_mm/teachers'
        assert big.config.stem in big.folder.name
        assert alone.folder == tmp_path / 'out/alone/seed_0'
        folders.add(big.folder)
    # Equal data in two places are the same teacher's.
    assert len(folders) == 2


def test_data_are_told_apart_wherever_they_lie(digits, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name / 'images').mkdir(parents=True)
        (tmp_path / name / 'images' / '0.png').write_bytes(b'1234')
    here, there = (identify_data(tmp_path / name) for name in 'ab')
    assert here == there
    identify_data.cache_clear()
    (tmp_path / 'b' / 'images' / '1.png').write_bytes(b'')
    assert identify_data(tmp_path / 'b') != here
    # Of the embedded data it is the parameters.
    (tmp_path / 'c').mkdir()
    manifest = (digits / 'manifest.json').read_text()
    (tmp_path / 'c' / 'manifest.json').write_text(manifest)
    assert identify_data(tmp_path / 'c') == identify_data(digits)
