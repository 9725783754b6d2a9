import argparse
import collections
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    find_latest_checkpoint,
    load_checkpoint,
)
from packaging.version import Version

from kdvit_mm import compat
from kdvit_mm.compat.patches import numpy_names, safe_weights

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | env,
        capture_output=True,
        text=True,
        cwd='/',
    )


def test_mmrazor_imports_without_importing_kdvit_mm():
    code = (
        'import mmrazor.models, mmrazor.engine, sys;'
        'from mmrazor.registry import MODELS;'
        'assert MODELS.get("SingleTeacherDistill");'
        'assert "kdvit_mm" not in sys.modules'
    )
    assert python(code).returncode == 0


def test_environment_variable_turns_the_startup_file_off():
    code = (
        'import sys; assert "kdvit_mm.compat" not in sys.modules;'
        'import mmrazor.models'
    )
    done = python(code, KDVIT_MM_STARTUP='0')
    assert 'is not installed properly' in done.stderr
    code = 'import kdvit_mm, mmrazor.models'
    assert python(code, KDVIT_MM_STARTUP='0').returncode == 0


def test_startup_imports_nothing_where_mmrazor_is_not_imported():
    code = 'import sys; print(*sys.modules)'
    with_file = set(python(code).stdout.split())
    without = set(python(code, KDVIT_MM_STARTUP='0').stdout.split())
    assert with_file - without == {'kdvit_mm.compat'}


def test_behaviour_changes_only_when_kdvit_mm_is_imported():
    code = """if True:
        import sys, torch, mmengine.runner, mmrazor.models
        from mmengine.fileio import LocalBackend
        from mmengine.hooks import CheckpointHook
        from mmengine.registry import DefaultScope, Registry
        from mmengine.runner import checkpoint

        def patched():
            functions = [
                LocalBackend.put,
                CheckpointHook._save_checkpoint_with_step,
                DefaultScope.__init__,
                Registry.split_scope_key,
                checkpoint.find_latest_checkpoint,
                mmengine.runner.find_latest_checkpoint,
            ]
            return ['kdvit_mm' in f.__code__.co_filename for f in functions]

        compat = sys.modules['kdvit_mm.compat']
        assert set(compat.applied) <= set(compat.AT_STARTUP), compat.applied
        assert not any(patched()), patched()
        assert checkpoint.torch is torch
        import kdvit_mm
        assert all(patched()), patched()
    """
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_table_lists_every_patch():
    done = subprocess.run(
        [sys.executable, '-m', 'kdvit_mm.compat'],
        capture_output=True,
        text=True,
        env=os.environ | {'COLUMNS': '200'},
    )
    assert done.returncode == 0, done.stderr
    for name in compat.PATCHES:
        assert name in done.stdout
        assert (compat.patch_module(name).__doc__ or '').count('\n') > 3
    assert 'needed here?' in done.stdout and 'applied?' in done.stdout


def test_patches_are_applied_only_where_needed():
    for name, targets in compat.PATCHES.items():
        needed = compat.patch_module(name).needed()
        loaded = {t for t in targets if t in sys.modules}
        assert set(compat.applied.get(name, [])) == (
            loaded if needed else set()
        )


def test_quantisation_refuses_with_the_reason():
    from mmrazor.models.quantizers import TorchNativeQuantizer
    from mmrazor.structures.quantization import BackendConfigs

    with pytest.raises(RuntimeError, match=r'torch\.ao removed in 2\.0'):
        TorchNativeQuantizer(tracer={}, global_qconfig={})
    with pytest.raises(RuntimeError, match='quantisation cannot work'):
        _ = BackendConfigs['native'].configs


def test_mmrazors_scripts_take_both_spellings_of_local_rank():
    """Their own parser, without a training."""
    import mmrazor

    script = Path(mmrazor.__path__[0], '.mim', 'tools', 'train.py')
    code = f"""if True:
        import argparse, runpy, sys
        sys.argv = [{str(script)!r}, 'config.py', '--local-rank=3']
        args = runpy.run_path(sys.argv[0])['parse_args']()
        assert args.local_rank == 3
    """
    done = python(code)
    assert done.returncode == 0, done.stderr
    parser = argparse.ArgumentParser()
    parser.add_argument('--local_rank', type=int)
    with pytest.raises(SystemExit):
        parser.parse_args(['--local-rank=3'])


def test_numpy_itself_stays_as_it_is():
    from mmdet.evaluation.functional import ytviseval

    assert ytviseval.np.cumsum([1, 2]).astype(ytviseval.np.float)[1] == 3.0
    assert not hasattr(np, 'float')
    assert isinstance(ytviseval.np, numpy_names._NumpyWithOldNames)


@pytest.mark.parametrize('labels', [[0, 1, 1, 0, 1, 2], [0, 1, 1, 0]])
def test_crd_takes_classes_of_different_sizes(labels):
    from mmengine.dataset import BaseDataset
    from mmrazor.datasets import CRDDataset

    class Labelled(BaseDataset):
        def load_data_list(self):
            return [{'gt_label': label} for label in labels]

        def get_gt_labels(self):
            return labels

    for percent in (1.0, 0.7):
        data = CRDDataset(Labelled(), 2, percent, sample_mode='random')
        for i, label in enumerate(labels):
            same, *others = data[i]['contrast_sample_idxs']
            assert labels[same] == label
            assert len(others) == 2
            assert label not in [labels[other] for other in others]


def checkpoint(**extra) -> dict:
    """What mmengine saves: weights, scalars of NumPy and its message hub."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    return {
        'state_dict': {'weight': torch.arange(6.0).reshape(2, 3)},
        'meta': {'epoch': 3, 'best': np.float64(0.5), 'ids': np.arange(3)},
        'message_hub': {'log_scalars': {'loss': history}},
        **extra,
    }


class Malicious:
    def __reduce__(self):
        return os.mkdir, (str(Malicious.folder),)


needs_protection = pytest.mark.skipif(
    Version(torch.__version__).release < (2, 6),
    reason='torch.load protects by default since 2.6',
)


def test_weights_load_with_the_message_hub_in_the_file(tmp_path):
    path = str(tmp_path / 'a.pth')
    torch.save(checkpoint(), path)
    loaded = CheckpointLoader.load_checkpoint(path, 'cpu')
    assert loaded['state_dict']['weight'].sum() == 15
    assert loaded['meta']['best'] == 0.5
    assert list(loaded['meta']['ids']) == [0, 1, 2]
    model = torch.nn.Linear(3, 2, bias=False)
    load_checkpoint(model, path, strict=True)
    assert model.weight.sum() == 15


@needs_protection
def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path = str(tmp_path / 'a.pth')
    Malicious.folder = tmp_path / 'made_by_pickle'
    torch.save(checkpoint(optimizer=Malicious()), path)
    with pytest.raises(pickle.UnpicklingError, match='more than weights'):
        CheckpointLoader.load_checkpoint(path, 'cpu')
    assert not Malicious.folder.exists()


@needs_protection
def test_getattr_in_a_checkpoint_reaches_nothing(tmp_path):
    class Reach:
        def __reduce__(self):
            return getattr, ('text', 'upper')

    path = str(tmp_path / 'a.pth')
    torch.save({'a': Reach()}, path)
    loaded = CheckpointLoader.load_checkpoint(path, 'cpu')
    assert isinstance(loaded['a'], safe_weights._Skipped)
    left = torch.serialization.get_safe_globals()
    assert not any('getattr' in str(entry) for entry in left)


def save_checkpoints(folder: Path, *names: str) -> list[Path]:
    files = []
    for age, name in enumerate(names):
        file = folder / name
        torch.save(checkpoint(), file)
        os.utime(file, (1000 + age, 1000 + age))
        files.append(file)
    (folder / 'last_checkpoint').write_text(str(files[-1]))
    return files


def truncate(file: Path) -> None:
    stat = file.stat()
    file.write_bytes(file.read_bytes()[: stat.st_size // 2])
    os.utime(file, (stat.st_atime, stat.st_mtime))


def test_resume_takes_the_newest_intact_checkpoint(tmp_path):
    files = save_checkpoints(tmp_path, 'epoch_1.pth', 'epoch_2.pth')
    assert find_latest_checkpoint(str(tmp_path)) == str(files[1])
    truncate(files[1])
    assert find_latest_checkpoint(str(tmp_path)) == str(files[0])
    (tmp_path / 'last_checkpoint').write_text('')
    assert find_latest_checkpoint(str(tmp_path)) == str(files[0])
    (tmp_path / 'last_checkpoint').unlink()
    assert find_latest_checkpoint(str(tmp_path)) == str(files[0])
    files[0].write_bytes(b'')
    assert find_latest_checkpoint(str(tmp_path)) is None


def test_truncated_checkpoint_says_what_to_do(tmp_path):
    (file,) = save_checkpoints(tmp_path, 'epoch_1.pth')
    truncate(file)
    with pytest.raises(RuntimeError, match=r'truncated or empty\. Take'):
        CheckpointLoader.load_checkpoint(str(file), 'cpu')


def test_missing_checkpoint_says_what_to_check(tmp_path):
    path = str(tmp_path / 'none.pth')
    with pytest.raises(FileNotFoundError, match='Check load_from'):
        load_checkpoint(torch.nn.Linear(1, 1), path)


def test_writing_fails_as_a_whole(tmp_path, monkeypatch):
    target = tmp_path / 'sub' / 'a.pth'
    LocalBackend().put(b'first', target)
    assert target.read_bytes() == b'first'

    def disk_is_full(self, data):
        raise OSError('no space left')

    monkeypatch.setattr(Path, 'write_bytes', disk_is_full)
    with pytest.raises(OSError, match='no space left'):
        LocalBackend().put(b'second', target)
    assert target.read_bytes() == b'first'
    assert [f.name for f in target.parent.iterdir()] == ['a.pth']


def test_old_checkpoint_goes_only_after_the_new_one_is_written(tmp_path):
    from mmengine.hooks import CheckpointHook

    class Runner:
        """The few attributes that the hook reads while it saves."""

        work_dir = str(tmp_path)
        message_hub = type('Hub', (), {'update_info': lambda *args: None})()
        seen: list = []

        def save_checkpoint(self, out_dir, filename, *args, **kwargs):
            files = {f.name for f in Path(out_dir).glob('*.pth')}
            self.seen.append(files)
            Path(out_dir, filename).touch()

    hook = CheckpointHook(interval=1, max_keep_ckpts=1, by_epoch=True)
    hook.out_dir = str(tmp_path)
    hook.keep_ckpt_ids = collections.deque()
    hook.file_backend = LocalBackend()
    hook.file_client_args = None
    hook.filename_tmpl = 'epoch_{}.pth'
    runner = Runner()
    for step in (1, 2):
        hook._save_checkpoint_with_step(runner, step, meta={})
    assert runner.seen == [set(), {'epoch_1.pth'}]
    assert {f.name for f in tmp_path.glob('*.pth')} == {'epoch_2.pth'}


def test_unknown_recorder_source_names_the_closest_modules():
    from mmrazor.models.task_modules import ModuleOutputsRecorder

    model = torch.nn.ModuleDict({'neck': torch.nn.Linear(2, 2)})
    message = '"nek" is not in the model, ModuleDict. Closest: neck'
    with pytest.raises(AssertionError, match=message):
        ModuleOutputsRecorder('nek').initialize(model)
