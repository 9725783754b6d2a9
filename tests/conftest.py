import gc
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from kdvit_mm.datasets import DigitSceneParams, make_digit_scenes

# Shells start background commands with Ctrl-C ignored, nohup with SIGHUP
# ignored, and so all that these start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def check_syntax(text: str, **options: object) -> tuple[str, bool]:
    """In place of yapf, which lays a config out for longer than tests train.

    A run does so for its log and for each checkpoint.
    """
    compile(text, 'config', 'exec')
    return text, False


config.FormatCode = check_syntax


def pytest_collection_finish() -> None:
    """Leaves what has been imported to no garbage collection.

    mmengine's data sets start one each.
    """
    gc.freeze()


@pytest.fixture(scope='module', autouse=True)
def nothing_of_other_files() -> None:
    """Runs each file as if it ran alone."""
    DefaultScope._instance_dict.clear()
    MessageHub._instance_dict.clear()


@pytest.fixture(autouse=True)
def no_visualizer_of_other_tests() -> None:
    """Runs get theirs by name, which ends in the second of their start."""
    Visualizer._instance_dict.clear()


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> Path:
    """A very small data set of digit scenes of 64 px."""
    root = tmp_path_factory.mktemp('data') / 'digits'
    params = DigitSceneParams(
        size=64, train=16, val=4, cls_train=4, cls_val=2, seed=0
    )
    make_digit_scenes(root, params)
    return root


@pytest.fixture(scope='module')
def forked() -> Iterator[None]:
    """Python programs that are started become copies of this process."""
    from tests.forked import ForkedPopen

    with pytest.MonkeyPatch.context() as patch:
        if torch.cuda.is_available():
            # It cannot be used after a fork.
            patch.setenv('PYTHONPATH', str(Path(__file__).parents[1]))
        else:
            patch.setattr(subprocess, 'Popen', ForkedPopen)
        yield
