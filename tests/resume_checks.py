"""Trains a demo config straight and in two halves."""

from collections.abc import Callable

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from tests.test_engine.test_training import DISTILLED, read_config

__all__ = ['DISTILLED', 'read_config', 'run', 'run_in_halves']


def run(cfg: Config) -> Runner:
    """Trains; returns what has trained."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def run_in_halves(config: Callable[[], Config]) -> Runner:
    """Trains until the second epoch or iteration, then resumes.

    ``config`` gives the same config, of two epochs or iterations, each time.
    """
    cfg = config()
    unit = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    # The schedule is that of the whole run, so training ends by exception.
    cfg.custom_hooks.append(dict(type='StopAfter', unit=unit))
    with pytest.raises(KeyboardInterrupt):
        run(cfg)
    cfg = config()
    cfg.resume = True
    cfg.experiment_name = f'{cfg.experiment_name}_again'
    return run(cfg)
