"""Processes that are told to stop, and what they have started."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdvit_mm.datasets import DigitSceneParams, make_digit_scenes
from kdvit_mm.datasets.digit_scenes import MANIFEST, _manifest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
CONFIGS = ROOT / 'configs' / 'demo'

# What stands at the top of every program below. The file is loaded as it is:
# the package takes seconds to import.
HEAD = f"""
import os, runpy, signal, subprocess, sys, time
lib = runpy.run_path({str(ROOT / 'kdvit_mm' / 'processes.py')!r})
start_child, end_children = lib['start_child'], lib['end_children']
"""
PARENT = """
lib['stop_on_signals']()
child = start_child(sys.argv[1:], stdout=subprocess.PIPE, text=True)
try:
    for line in child.stdout:
        print(child.pid, line, end='', flush=True)
except lib['Stopped'] as stopped:
    end_children(child)
    print('said:', child.stdout.read(), child.returncode, flush=True)
    sys.exit(stopped.status)
"""
# Has a worker, and says so when it is stopped.
CHILD = """
lib['stop_on_signals']()
worker = subprocess.Popen(['sleep', '1000'])
try:
    print(worker.pid, flush=True)
    time.sleep(1000)
except lib['Stopped'] as stopped:
    {end}
    print(stopped, flush=True)
    sys.exit(stopped.status)
"""
SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(')')[2].split()[0] != 'Z'


def descendants(pid: int) -> list[int]:
    found = subprocess.run(
        ['ps', '-o', 'pid=', '--ppid', str(pid)],
        capture_output=True,
        text=True,
    )
    children = [int(number) for number in found.stdout.split()]
    children = [child for child in children if is_alive(child)]
    return children + [pid for child in children for pid in descendants(child)]


def wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    """Those that are still there at the end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(is_alive, pids)):
        time.sleep(0.1)
    return [pid for pid in pids if is_alive(pid)]


def family(
    end: str = 'worker.kill()', stop_seconds: float = 60, **options
) -> tuple:
    """A parent, and the ids of its child and of the child's worker."""
    head = f"{HEAD}end_children.__globals__['STOP_SECONDS'] = {stop_seconds}\n"
    parent = subprocess.Popen(
        [
            sys.executable, '-c', head + PARENT,
            sys.executable, '-c', head + CHILD.format(end=end),
        ],
        stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    assert parent.stdout is not None
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


@pytest.mark.parametrize('name', SIGNALS)
def test_children_end_with_their_parent(name):
    parent, pids = family()
    parent.send_signal(getattr(signal, name))
    output = parent.communicate(timeout=60)[0].split()
    number = 128 + getattr(signal, name)
    assert parent.returncode == number
    assert output == ['said:', 'SIGTERM', '143']
    assert not wait_until_gone(pids, 0)


def test_what_does_not_stop_is_killed():
    """With its workers, which it leaves behind."""
    parent, pids = family('time.sleep(1000)', stop_seconds=1)
    parent.terminate()
    assert parent.communicate(timeout=60)[0].split()[-1] == '-9'
    assert not wait_until_gone(pids, 1)


@pytest.mark.parametrize('end', ['worker.kill()', 'time.sleep(1000)'])
def test_children_of_a_killed_parent_end(end):
    """At the latest when they have had their time to stop."""
    parent, pids = family(end, stop_seconds=1)
    parent.kill()
    parent.communicate(timeout=60)
    assert not wait_until_gone(pids, 10)


def test_signals_that_the_shell_has_turned_off():
    """Ctrl-C in a script's background commands, and hang-ups by nohup."""

    def turn_off() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    parent, pids = family(preexec_fn=turn_off)
    parent.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert parent.poll() is None and all(map(is_alive, pids))
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=60)
    assert parent.returncode == 130 and not wait_until_gone(pids, 0)


def test_a_signal_in_a_destructor():
    """Where Python drops what is raised, as when a data loader ends."""
    program = """
lib['stop_on_signals']()
class Loader:
    def __del__(self):
        print('ends', flush=True)
        time.sleep(1000)
try:
    Loader()
    time.sleep(1000)
except lib['Stopped'] as stopped:
    sys.exit(stopped.status)
"""
    process = subprocess.Popen(
        [sys.executable, '-c', HEAD + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == 'ends\n'
    process.terminate()
    assert process.communicate(timeout=60) == ('', '')
    assert process.returncode == 143


def test_workers_are_ended_in_silence():
    program = """
from multiprocessing import get_context
lib['stop_on_signals']()
with get_context('fork').Pool(2) as pool:
    pool.map(abs, range(4))
"""
    done = subprocess.run(
        [sys.executable, '-c', HEAD + program], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.fixture(scope='module')
def crops(tmp_path_factory) -> Path:
    """Enough of them that an epoch takes a while."""
    root = tmp_path_factory.mktemp('data') / 'crops'
    params = DigitSceneParams(
        size=64, train=1, val=1, cls_train=100, cls_val=2, seed=0
    )
    make_digit_scenes(root, params)
    # The demo makes anything else anew.
    usual = json.dumps(_manifest(DigitSceneParams()))
    (root / MANIFEST).write_text(usual)
    return root


def demo(crops: Path, out: Path) -> list[object]:
    return [
        TOOLS / 'demo.py', '--task', 'cls', '--data-root', crops, '--out', out,
    ]  # fmt: skip


def table(crops: Path, out: Path) -> list[object]:
    config = CONFIGS / 'resnet18-w0.25_10e_digits-32.py'
    text = f"""
title: Crops
metric: {{name: top-1, key: accuracy/top1}}
seeds: [0, 1]
rows: [{{name: alone, config: {config}, baseline: true}}]
"""
    out.mkdir()
    (out / 'table.yaml').write_text(text)
    return [
        TOOLS / 'benchmark' / 'run_table.py', out / 'table.yaml', '--jobs', 2,
        '--out', out / 'runs', '--data-root', crops,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ('program', 'name', 'status'),
    [(demo, 'SIGTERM', 143), (table, 'SIGKILL', -9)],
)
def test_trainings_end_with_their_program(
    program, name, status, crops, tmp_path
):
    """With their data loader's workers, and their checkpoints are whole."""
    out = tmp_path / 'out'
    command = [sys.executable, *map(str, program(crops, out))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 300
    started: list[int] = []
    while not list(out.rglob('epoch_1.pth')) or len(started) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
        started = descendants(process.pid)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert not wait_until_gone(started, 30)
    assert 'Traceback' not in output, output
    assert name == 'SIGKILL' or 'The same command goes on' in output
    (log, *_) = out.rglob('20*.log')
    assert 'Stopped by SIGTERM at epoch' in log.read_text()
    (last, *_) = out.rglob('last_checkpoint')
    state = torch.load(last.read_text(), weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in state.values())
