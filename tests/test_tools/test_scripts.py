import os
import signal
import subprocess
import sys
from argparse import Namespace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
CONFIGS = ROOT / 'configs' / 'demo'
STUDENT = CONFIGS / 'resnet18-w0.0625_10e_digits-32.py'


def command(tool: str, *arguments: object) -> list[str]:
    return [sys.executable, str(TOOLS / tool), *map(str, arguments)]


def run(*args: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*args), capture_output=True, text=True, **options
    )


def load(tool: str) -> ModuleType:
    """A tool as a module."""
    spec = spec_from_file_location(Path(tool).stem, TOOLS / tool)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # Where Python looks first for what a script imports.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend((TOOLS / tool).parent)
        spec.loader.exec_module(module)
    return module


def run_here(tool: str, *arguments: object) -> None:
    """Runs a tool as its command line does, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        load(tool).main()


@pytest.mark.parametrize(
    'script', sorted(TOOLS.glob('*.sh')), ids=lambda path: path.name
)
def test_shell_scripts_parse_and_are_executable(script):
    assert subprocess.run(['bash', '-n', script]).returncode == 0
    assert script.stat().st_mode & 0o111


# Runs a tool until it imports torch, and says what OpenMP then finds.
UNTIL_TORCH = """
import os, runpy, sys
class Trap:
    def find_spec(self, name, *args):
        if name in ('numpy', 'cv2', 'torch'):
            sys.exit(os.environ.get('OMP_WAIT_POLICY'))
sys.meta_path.insert(0, Trap())
runpy.run_path(sys.argv[1])
"""


@pytest.mark.parametrize(
    'tool',
    # Those in misc make the environment.
    sorted(set(TOOLS.rglob('*.py')) - set(TOOLS.glob('misc/**/*.py'))),
    ids=lambda path: path.name,
)
def test_threads_do_not_spin_unless_the_user_wants_it(tool):
    for policy in (None, 'ACTIVE'):
        environment = {
            key: value
            for key, value in os.environ.items()
            if key != 'OMP_WAIT_POLICY'
        } | ({} if policy is None else {'OMP_WAIT_POLICY': policy})
        done = subprocess.run(
            [sys.executable, '-c', UNTIL_TORCH, tool],
            env=environment, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stderr.strip() == (policy or 'PASSIVE')


@pytest.mark.parametrize(
    'script', sorted(TOOLS.glob('*.sh')), ids=lambda path: path.name
)
@pytest.mark.parametrize('policy', [None, 'ACTIVE'])
def test_shell_scripts_hand_on_the_policy(script, policy, tmp_path):
    """To the program that they start: ``python`` or ``srun``."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\necho "$OMP_WAIT_POLICY"\n')
        (tmp_path / name).chmod(0o755)
    environment = {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    if policy is not None:
        environment['OMP_WAIT_POLICY'] = policy
    done = subprocess.run(
        [script, 'a', 'b', 'c', 'd'],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == (policy or 'PASSIVE'), done.stderr


def test_ctrl_c_says_how_to_go_on(digits, tmp_path):
    options = [
        f'{part}_dataloader.dataset.data_root={digits}/'
        for part in ('train', 'val', 'test')
    ]
    options += ['train_cfg.max_epochs=1000', 'train_cfg.val_interval=1000']
    process = subprocess.Popen(
        command(
            'train.py', STUDENT, '--work-dir', tmp_path,
            '--cfg-options', *options,
        ),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if 'Saving checkpoint at 2 epochs' in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 130, rest[-2000:]
    assert 'Stopped by SIGINT at epoch' in rest and '--resume' in rest
    assert 'Traceback' not in rest
    last = Path((tmp_path / 'last_checkpoint').read_text())
    assert last.is_file()


@pytest.mark.usefixtures('forked')
def test_wrong_options_end_with_a_sentence(monkeypatch, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('model = dict()')

    def refusal(tool: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        module = load(tool)
        run = module.build_runner if 'train' in tool else module.run
        with pytest.raises(SystemExit) as end:
            run(module.parse_args())
        return str(end.value)

    assert '--amp needs optim_wrapper.type' in refusal(
        'train.py', config, '--amp'
    )
    assert 'auto_scale_lr=dict(base_batch_size=N)' in refusal(
        'train.py', config, '--auto-scale-lr'
    )
    monkeypatch.chdir(tmp_path)
    assert 'DATA_ROOT=' in refusal('demo.py', '--data', 'bccd')
    done = run('demo.py', '--task', 'seg', '--data', 'bccd')
    words = ' '.join(done.stderr.split())
    assert 'the seg demo of "cwd" is not on bccd, but on digits' in words
    done = run('demo.py', '--task', 'cls', '--method', 'cwdd')
    words = ' '.join(done.stderr.split())
    assert 'there is no cls demo of "cwdd", only of ' in words


@pytest.fixture(scope='module')
def train_tool() -> ModuleType:
    return load('train.py')


@pytest.mark.parametrize(
    'kind',
    [
        'OptimWrapper',
        'mmengine.OptimWrapper',
        'mmengine.optim.OptimWrapper',
        OptimWrapper,
        None,
        'AmpOptimWrapper',
        'mmengine.AmpOptimWrapper',
        AmpOptimWrapper,
    ],
)
def test_amp_takes_every_spelling(train_tool, kind):
    """The rest of the wrapper stays, a loss scale of its own too."""
    rest = dict(
        optimizer=dict(type='SGD', lr=0.1),
        accumulative_counts=2,
        clip_grad=dict(max_norm=1.0),
    )
    for scale in ({}, {'loss_scale': 512.0}):
        cfg = Config(dict(optim_wrapper=dict(type=kind, **rest, **scale)))
        if kind is None:
            del cfg.optim_wrapper['type']
        train_tool.use_amp(cfg)
        found = cfg.optim_wrapper.to_dict()
        assert OPTIM_WRAPPERS.get(found.pop('type')) is AmpOptimWrapper
        assert found == {'loss_scale': 'dynamic'} | rest | scale


def test_amp_takes_new_style_configs(train_tool, tmp_path):
    config = tmp_path / 'new.py'
    config.write_text(
        'from mmengine.optim import OptimWrapper\n'
        'from torch.optim import SGD\n'
        'optim_wrapper = dict(\n'
        '    type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))\n'
    )
    cfg = Config.fromfile(config)
    train_tool.use_amp(cfg)
    assert OPTIM_WRAPPERS.get(cfg.optim_wrapper.type) is AmpOptimWrapper
    assert cfg.optim_wrapper.optimizer.type is torch.optim.SGD


@pytest.mark.parametrize(
    ('wrapper', 'found'),
    [
        (dict(type='Mine', optimizer={}), 'Mine'),
        (dict(type='ApexOptimWrapper', optimizer={}), 'ApexOptimWrapper'),
        (dict(type=Config, optimizer={}), 'Config'),
        (dict(constructor='Two', first={}, second={}), 'none'),
        (None, 'none'),
    ],
)
def test_amp_refuses_what_it_does_not_know(train_tool, wrapper, found):
    with pytest.raises(SystemExit, match=f'but the config has "{found}"'):
        train_tool.use_amp(Config(dict(optim_wrapper=wrapper)))


def amp_arguments(work_dir: Path, **options) -> Namespace:
    return Namespace(
        config=str(STUDENT),
        work_dir=str(work_dir),
        amp=True,
        auto_scale_lr=False,
        resume=None,
        cfg_options=options,
        launcher='none',
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_amp_without_a_gpu_ends_with_a_sentence(train_tool, tmp_path):
    with pytest.raises(SystemExit, match='--amp needs a GPU'):
        train_tool.build_runner(amp_arguments(tmp_path))


@pytest.mark.parametrize(
    ('kind', 'mixed'),
    [
        ('OptimWrapper', 'mmengine.AmpOptimWrapper'),
        ('kdvit_mm.DOTOptimWrapper', 'kdvit_mm.DOTAmpOptimWrapper'),
    ],
)
def test_amp_has_a_form_of_each_wrapper(train_tool, kind, mixed):
    cfg = Config(dict(optim_wrapper=dict(type=kind, optimizer=dict())))
    train_tool.use_amp(cfg)
    assert cfg.optim_wrapper.type == mixed
    assert cfg.optim_wrapper.loss_scale == 'dynamic'


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
def test_amp_trains_a_demo_config(train_tool, digits, tmp_path):
    options = {
        f'{part}_dataloader.dataset.data_root': f'{digits}/'
        for part in ('train', 'val', 'test')
    } | {'train_cfg.max_epochs': 1}
    runner = train_tool.build_runner(amp_arguments(tmp_path, **options))
    runner.train()
    assert isinstance(runner.optim_wrapper, AmpOptimWrapper)
    assert all(p.isfinite().all() for p in runner.model.parameters())


@pytest.mark.usefixtures('forked')
def test_exporting_a_plain_checkpoint_is_refused(tmp_path):
    path = tmp_path / 'plain.pth'
    torch.save({'state_dict': {'weight': torch.zeros(1)}}, path)
    done = run('model_converters/export_student.py', path, tmp_path / 'out')
    assert done.returncode and 'may be a student already' in done.stderr
    torch.save({'state_dict': {'architecture.a': torch.zeros(1)}}, path)
    done = run('model_converters/export_student.py', path, tmp_path / 'out')
    assert 'with --config' in done.stderr
    done = run(
        'model_converters/export_student.py', path, tmp_path / 'out',
        '--config', STUDENT,
    )  # fmt: skip
    assert 'does not fit its plain config' in done.stderr
    assert not (tmp_path / 'out').exists()
