import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    'script', sorted(TOOLS.glob('*.sh')), ids=lambda path: path.name
)
def test_shell_scripts_parse_and_are_executable(script):
    assert subprocess.run(['bash', '-n', script]).returncode == 0
    assert script.stat().st_mode & 0o111


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
    assert 'Stopped by hand at epoch' in rest and '--resume' in rest
    assert 'Traceback' not in rest
    last = Path((tmp_path / 'last_checkpoint').read_text())
    assert last.is_file()


def test_wrong_options_end_with_a_sentence(tmp_path):
    text = 'optim_wrapper = dict(type="Mine")\nmodel = dict()'
    config = tmp_path / 'config.py'
    config.write_text(text)
    done = run('train.py', config, '--amp')
    assert done.returncode and '--amp needs optim_wrapper.type' in done.stderr
    config.write_text('model = dict()')
    done = run('train.py', config, '--auto-scale-lr')
    assert 'auto_scale_lr=dict(base_batch_size=N)' in done.stderr
    done = run('demo.py', '--task', 'seg', '--data', 'bccd')
    assert 'the seg demo has one method and is on digits' in done.stderr
    done = run('demo.py', '--data', 'bccd', cwd=tmp_path)
    assert 'DATA_ROOT=' in done.stderr


def test_exporting_a_plain_checkpoint_is_refused(tmp_path):
    import torch

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
