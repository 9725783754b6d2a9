"""What a user does with an installed package, in processes of their own.

There is a scratch environment with the built wheel and one with an editable
installation; both find the other packages of this environment. What mim looks
up, and what pip installs, is tested in both.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config

from kdvit_mm.compat.patches import safe_weights

ROOT = Path(__file__).resolve().parents[2]
TEACHER = 'gfl_r18-w0.5_fpn_12e_digits-96'
STUDENT = 'gfl_r18-w0.125_fpn_4e_digits-96'
DISTILLED = 'cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96'

pytestmark = pytest.mark.slow
#: For what runs the same files, however they were installed.
in_one = pytest.mark.parametrize('scratch', ['wheel'], indirect=True)


class Scratch:
    """A virtual environment with kdvit_mm installed in one way."""

    def __init__(self, folder: Path, *install: str) -> None:
        self.folder = folder
        subprocess.run(
            [sys.executable, '-m', 'venv', '--without-pip', folder], check=True
        )
        self.python = folder / 'bin' / 'python'
        paths = sysconfig.get_paths(vars={'base': str(folder)})
        self.site = Path(paths['purelib'].replace(sys.prefix, str(folder)))
        # Added as plain paths: .pth files in them are not run.
        outer = sysconfig.get_paths()
        lines = {outer['purelib'], outer['platlib']}
        # Setuptools' own .pth file, which gives Python 3.12 its distutils.
        shim = 'import _distutils_hack; _distutils_hack.add_shim()'
        (self.site / 'outer.pth').write_text('\n'.join([*sorted(lines), shim]))
        subprocess.run(
            [
                sys.executable, '-m', 'pip', '--python', str(self.python),
                'install', '-q', '--no-deps', '--no-build-isolation', *install,
            ],
            check=True,
        )  # fmt: skip
        mim = folder / 'bin' / 'mim'
        mim.write_text(f'#!{self.python}\nfrom mim.cli import cli\ncli()\n')
        mim.chmod(0o755)

    def start(self, *command: str, cwd: Path, **options) -> subprocess.Popen:
        env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(('PYTHONPATH', 'VIRTUAL_ENV'))
        }
        env['PATH'] = f'{self.folder / "bin"}:{env["PATH"]}'
        env['OMP_NUM_THREADS'] = '1'
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )

    def find_package(self, cwd: Path) -> str:
        code = 'from mim.utils import get_installed_path as path; '
        code += 'print(path("kdvit_mm"))'
        output = self.run(str(self.python), '-c', code, cwd=cwd)
        return output.splitlines()[-1]

    def run(self, *command: str, cwd: Path) -> str:
        process = self.start(*command, cwd=cwd)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-4000:]
        return output


@pytest.fixture(scope='module', params=['wheel', 'editable'])
def scratch(request, tmp_path_factory) -> Scratch:
    folder = tmp_path_factory.mktemp(request.param)
    # A copy, since building writes beside the sources.
    source = folder / 'source'
    ignore = shutil.ignore_patterns(
        '.venv*', '.git', 'data', 'work_dirs', 'build', 'dist', '*.egg-info',
        '.mim', '__pycache__', '.*_cache',
    )  # fmt: skip
    shutil.copytree(ROOT, source, ignore=ignore)
    if request.param == 'editable':
        return Scratch(folder / 'venv', '-e', str(source))
    subprocess.run(
        [
            sys.executable, '-m', 'build', '--no-isolation',
            '--outdir', str(folder / 'dist'), str(source),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (wheel,) = (folder / 'dist').glob('*.whl')
    shutil.rmtree(source)
    return Scratch(folder / 'venv', str(wheel))


@pytest.fixture(scope='module')
def teacher(tmp_path_factory) -> Path:
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / f'{TEACHER}.py')
    model = MMDET_MODELS.build(cfg.model)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    return path


@pytest.fixture(scope='module')
def options(digits, teacher) -> list[str]:
    """Four iterations an epoch, two epochs, checkpoints after each."""
    annotations = digits / 'annotations' / 'val.json'
    return [
        '--cfg-options',
        *(
            f'{part}_dataloader.dataset.data_root={digits}/'
            for part in ('train', 'val', 'test')
        ),
        f'val_evaluator.ann_file={annotations}',
        f'test_evaluator.ann_file={annotations}',
        'train_dataloader.batch_size=2',
        'train_dataloader.dataset.indices=8',
        'train_dataloader.num_workers=0',
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1',
        f'model.teacher_ckpt={teacher}',
    ]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, map_location='cpu', weights_only=False)[
        'state_dict'
    ]


def logged(work_dir: Path) -> list[dict]:
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope='module')
def straight(scratch, options, tmp_path_factory) -> Path:
    """Work directory of the uninterrupted run."""
    folder = tmp_path_factory.mktemp('straight')
    scratch.run(
        'mim', 'train', 'kdvit_mm', f'{DISTILLED}.py', '--gpus', '0',
        '--work-dir', str(folder / 'w'), *options, cwd=folder,
    )  # fmt: skip
    return folder / 'w'


def test_mim_train_kdvit_mm_by_config_name(straight):
    steps = [record for record in logged(straight) if 'loss' in record]
    assert len(steps) == 8
    assert all('distill.loss_cwd' in record for record in steps)
    assert {
        key.split('.')[0] for key in weights(straight / 'epoch_2.pth')
    } == {'architecture'}


@in_one
def test_kill_in_the_middle_of_an_epoch_then_resume(
    scratch, options, straight, tmp_path
):
    """The resumed run ends with the weights of the uninterrupted one."""
    tools = scratch.find_package(tmp_path)
    command = [
        'python', f'{tools}/.mim/tools/train.py',
        f'{tools}/.mim/configs/demo/{DISTILLED}.py',
        '--work-dir', str(tmp_path / 'killed'), '--resume', *options,
    ]  # fmt: skip
    process = scratch.start(*command, cwd=tmp_path, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if 'Epoch(train) [2][1/4]' in ' '.join(line.split()):
            break
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / 'killed' / 'epoch_2.pth').exists()
    output = scratch.run(*command, cwd=tmp_path)
    assert 'resumed epoch: 1' in output
    assert ('it is unpickled in full' in output) == safe_weights.needed()
    assert 'Epoch(train) [1]' not in ' '.join(output.split())
    expected = weights(straight / 'epoch_2.pth')
    for key, value in weights(tmp_path / 'killed' / 'epoch_2.pth').items():
        assert torch.equal(value, expected[key]), key


def test_mim_test_and_export_into_plain_mmdet(
    scratch, options, straight, tmp_path
):
    checkpoint = straight / 'epoch_2.pth'
    output = scratch.run(
        'mim', 'test', 'kdvit_mm', f'{DISTILLED}.py', '--gpus', '0',
        '--checkpoint', str(checkpoint), '--work-dir', str(tmp_path / 'test'),
        *options, cwd=tmp_path,
    )  # fmt: skip
    assert 'coco/bbox_mAP' in output or 'testing results of' in output
    plain = ROOT / 'configs' / 'demo' / f'{STUDENT}.py'
    student = tmp_path / 'student.pth'
    output = scratch.run(
        'mim', 'run', 'kdvit_mm', 'export_student', str(checkpoint),
        str(student), '--config', str(plain), cwd=tmp_path,
    )  # fmt: skip
    # In this process, with nothing but mmdet's own registry.
    model = MMDET_MODELS.build(Config.fromfile(plain).model)
    exported = torch.load(student, weights_only=True)['state_dict']
    model.load_state_dict(exported, strict=True)
    assert f'{len(exported)} weights written' in output
    trained = weights(checkpoint)
    for key, value in exported.items():
        assert torch.equal(value, trained[f'architecture.{key}'])


def test_mim_train_mmrazor_knows_nothing_of_kdvit_mm(
    scratch, options, tmp_path
):
    config = ROOT / 'configs' / 'demo' / f'{DISTILLED}.py'
    scratch.run(
        'mim', 'train', 'mmrazor', str(config), '--gpus', '0',
        '--work-dir', str(tmp_path / 'w'), *options,
        'train_cfg.max_epochs=1', cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / 'w' / 'epoch_1.pth').is_file()


@in_one
def test_mim_train_mmrazor_with_the_old_launcher(scratch, options, tmp_path):
    """torch.distributed.launch, which passes --local-rank, and two ranks."""
    config = ROOT / 'configs' / 'demo' / f'{DISTILLED}.py'
    scratch.run(
        'mim', 'train', 'mmrazor', str(config), '--launcher', 'pytorch',
        '--gpus', '2', '--port', free_port(), '--work-dir',
        str(tmp_path / 'w'), *options, 'train_cfg.max_epochs=1', cwd=tmp_path,
    )  # fmt: skip
    steps = [r for r in logged(tmp_path / 'w') if 'loss' in r]
    assert len(steps) == 2, 'four iterations shared by two ranks'


@in_one
def test_dist_train_and_dist_test_with_two_processes(
    scratch, options, tmp_path
):
    tools = scratch.find_package(tmp_path)
    config = str(ROOT / 'configs' / 'demo' / f'{DISTILLED}.py')
    output = scratch.run(
        'env', f'PORT={free_port()}',
        f'{tools}/.mim/tools/dist_train.sh', config, '2',
        '--work-dir', str(tmp_path / 'w'), *options,
        'train_cfg.max_epochs=1', cwd=tmp_path,
    )  # fmt: skip
    assert 'using the gloo backend' in output
    steps = [r for r in logged(tmp_path / 'w') if 'loss' in r]
    assert len(steps) == 2
    output = scratch.run(
        'env', f'PORT={free_port()}',
        f'{tools}/.mim/tools/dist_test.sh', config,
        str(tmp_path / 'w' / 'epoch_1.pth'), '2',
        '--work-dir', str(tmp_path / 't'), *options, cwd=tmp_path,
    )  # fmt: skip
    assert 'Epoch(test) [1/1]' in ' '.join(output.split())


def test_uninstalling_removes_the_startup_file(scratch):
    assert (scratch.site / 'kdvit_mm_startup.pth').is_file()
    subprocess.run(
        [
            sys.executable, '-m', 'pip', '--python', str(scratch.python),
            'uninstall', '-q', '-y', 'kdvit_mm',
        ],
        check=True,
    )  # fmt: skip
    assert not list(scratch.site.glob('*kdvit_mm*'))
