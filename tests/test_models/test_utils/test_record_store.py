import os
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.logging import MMLogger

from kdvit_mm.models.utils.record_store import RecordStore


def record(value, size=400):
    return dict(maps=[torch.full((size,), float(value)), None, (3, 'a')])


@pytest.fixture
def warnings(monkeypatch):
    said: list[str] = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', said.append)
    return said


def files(folder):
    return sorted(x for x in folder.rglob('*') if x.is_file())


def test_records_come_back(tmp_path):
    store = RecordStore(tmp_path, 10**6)
    assert store.get('teacher', 'image') is None
    store.put('teacher', 'image', record(1))
    maps = store.get('teacher', 'image')['maps']
    assert torch.equal(maps[0], torch.ones(400)) and maps[1:] == [
        None,
        (3, 'a'),
    ]
    assert store.get('other', 'image') is None
    assert RecordStore(tmp_path, 10**6).get('teacher', 'image') is not None


@pytest.mark.parametrize('damage', ['empty', 'cut', 'flipped', 'foreign'])
def test_a_damaged_file_is_none(tmp_path, damage):
    store = RecordStore(tmp_path, 10**6)
    store.put('teacher', 'image', record(1))
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(
        dict(
            empty=b'',
            cut=file.read_bytes()[:-1],
            flipped=content,
            foreign=b'no record of any kind',
        )[damage]
    )
    assert store.get('teacher', 'image') is None
    store.put('teacher', 'image', record(2))
    assert store.get('teacher', 'image')['maps'][0][0] == 2
    assert len(files(tmp_path)) == 1


def test_the_oldest_are_removed(tmp_path):
    (tmp_path / 'teacher').mkdir()
    (tmp_path / 'teacher' / 'notes.txt').write_text("another's")
    draft = tmp_path / 'teacher' / '1.record-draft'
    draft.write_bytes(b'of a run that was killed')
    os.utime(draft, (0, 0))
    store = RecordStore(tmp_path, 10**6)
    store.put('teacher', '0', record(0))
    os.utime(tmp_path / 'teacher' / '0.record', (0.5, 0.5))
    size = next(tmp_path.rglob('*.record')).stat().st_size
    store = RecordStore(tmp_path, 5 * size)
    for n in range(1, 9):
        store.put('teacher', str(n), record(n))
        # File systems tell times apart by some milliseconds only.
        os.utime(tmp_path / 'teacher' / f'{n}.record', (n, n))
        kept = [x for x in files(tmp_path) if x.suffix != '.txt']
        assert sum(x.stat().st_size for x in kept) <= 5 * size
    assert [x.name for x in kept] == [f'{n}.record' for n in (5, 6, 7, 8)]
    assert not draft.exists()
    assert (tmp_path / 'teacher' / 'notes.txt').read_text() == "another's"


def test_a_full_disk_gives_one_warning(tmp_path, warnings):
    store = RecordStore(tmp_path, 10**6)
    store.put('teacher', 'small', record(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        for n in range(3):
            store.put('teacher', str(n), record(n, 10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (warning,) = warnings
    assert 'File too large' in warning and str(tmp_path) in warning
    assert [x.name for x in files(tmp_path)] == ['small.record']
    assert store.get('teacher', 'small') is not None


def test_a_folder_that_cannot_be_is_a_warning(tmp_path, warnings):
    (tmp_path / 'file').write_text('')
    store = RecordStore(tmp_path / 'file', 10**6)
    store.put('teacher', 'image', record(1))
    assert store.get('teacher', 'image') is None
    assert 'Not a directory' in warnings[0]


def test_writers_and_readers_share_a_folder(tmp_path):
    """Every record is whole or not there, while all are written anew."""
    RecordStore(tmp_path, 10**6).put('teacher', '0', record(0))
    size = next(tmp_path.rglob('*.record')).stat().st_size

    def work(seed):
        store = RecordStore(tmp_path, 4 * size)
        found = 0
        for n in range(120):
            name = (n * 7 + seed) % 6
            kept = store.get('teacher', str(name))
            if kept is not None:
                assert torch.equal(kept['maps'][0], record(name)['maps'][0])
                found += 1
            store.put('teacher', str(name), record(name))
        assert store._writes
        return found

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) > 0
    total = sum(x.stat().st_size for x in files(tmp_path))
    assert total <= 4 * size
