"""What docs/contributing.md says of adding a method is all that it takes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
STEPS = re.compile(r'^`(\S+)`:\n\n```\w+\n(.*?)^```$', re.M | re.S)
#: Where DeFeat, for one, is written down by hand. Tables on real images choose
#: their methods.
BY_HAND = re.compile(
    r'kdvit_mm/models/(losses/feature|connectors)/defeat\.py|'
    r'configs/(_base_/distillers|demo)/defeat_\w.*|'
    r'configs/distill/mmdet/defeat/.*|docs/results/.*|CHANGELOG\.md|'
    r'configs/real/defeat_\w.*|configs/benchmark/methods_neudet\.yaml|'
    r'tools/misc/generate_configs\.py|'
    r'tests/golden/README\.md|tests/test_models/.*/test_defeat\w*\.py'
)


def files() -> list[str]:
    """The repository's files, without what git ignores."""
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('needs a checkout and git')
    listed = ['git', 'ls-files', '--cached', '--others', '--exclude-standard']
    done = subprocess.run(
        listed, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [
        name for name in done.stdout.splitlines() if (ROOT / name).exists()
    ]


@pytest.mark.slow
def test_a_toy_method(digits, tmp_path):
    copy = tmp_path / 'copy'
    for name in files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    steps = STEPS.findall((ROOT / 'docs/contributing.md').read_text())
    assert len(steps) == 7
    for name, text in steps:
        assert not (copy / name).exists()
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)

    def run(*command: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=copy,
            env=os.environ | {'PYTHONPATH': str(copy)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    generated = run('tools/misc/generate_docs.py')
    for name in ('README.md', 'README_zh-CN.md', 'docs/methods.md',
                 'configs/demo/README.md', 'model-index.yml'):  # fmt: skip
        assert f'written: {copy / name}' in generated
        assert re.search(r'\btoy\b', (copy / name).read_text())
    # The tests of all losses and configs take it up.
    tests = run(
        '-m', 'pytest', '-q', '-k', 'Toy or toy or fresh',
        'tests/test_models/test_losses', 'tests/test_devices.py',
        'tests/test_metafiles.py', 'tests/test_configs.py',
    )  # fmt: skip
    assert int(re.search(r'(\d+) passed', tests)[1]) >= 5

    (copy / 'data').mkdir()
    (copy / 'data/digit_scenes').symlink_to(digits)
    demo = next((copy / 'configs/demo').glob('toy_*.py'))
    run(
        'tools/train.py', demo, '--work-dir', tmp_path / 'run',
        '--cfg-options', 'model.teacher_ckpt=None', 'train_cfg.max_epochs=1',
    )  # fmt: skip
    (log,) = (tmp_path / 'run').glob('*/*.log')
    losses = re.findall(r'distill\.loss_toy: ([\d.]+)', log.read_text())
    assert losses
    assert all(float(loss) > 0 for loss in losses)
    assert Config.fromfile(demo).model.distiller.distill_losses


def test_a_method_is_written_by_hand_in_its_own_files_only():
    marked = re.compile(r'generated: .*?end generated', re.S)
    elsewhere = []
    for name in files():
        path = ROOT / name
        if path.suffix in ('.py', '.md', '.yml', '.yaml') and not (
            BY_HAND.fullmatch(name)
        ):
            by_hand = marked.sub('', path.read_text())
            if 'defeat' in by_hand.lower():
                elsewhere.append(name)
    # This file, and the index of metafiles, which is all generated.
    assert elsewhere == ['model-index.yml', 'tests/test_add_a_method.py']
