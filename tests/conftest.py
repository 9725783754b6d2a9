import signal
from pathlib import Path

import pytest
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope

from kdvit_mm.datasets import DigitSceneParams, make_digit_scenes

# Shells start background commands with Ctrl-C ignored, nohup with SIGHUP
# ignored, and so all that these start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope='module', autouse=True)
def nothing_of_other_files() -> None:
    """Runs each file as if it ran alone."""
    DefaultScope._instance_dict.clear()
    MessageHub._instance_dict.clear()


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> Path:
    """A very small data set of digit scenes of 64 px."""
    root = tmp_path_factory.mktemp('data') / 'digits'
    params = DigitSceneParams(
        size=64, train=16, val=4, cls_train=4, cls_val=2, seed=0
    )
    make_digit_scenes(root, params)
    return root
