"""Weights from elsewhere load under ``weights_only``; own runs still resume.

Breaks: mmengine's checkpoints hold its message hub, which
``torch.load(weights_only=True)`` refuses ("Unsupported global:
mmengine.logging.history_buffer.HistoryBuffer"), so that resume, test,
``load_from`` and ``teacher_ckpt`` stop with an UnpicklingError.
Since: torch 2.6 made ``weights_only=True`` the default. Upstream:
open-mmlab/mmengine pull request 1650, issue 1655.
Can go: when mmengine saves only what ``weights_only`` loads.

The protection stays on for every file that is only read for its weights: the
log history in it is skipped, NumPy scalars and arrays are allowed, anything
else is refused. Full unpickling is left to resuming a run from a checkpoint
in its own work directory, and the log says so.
"""

import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from packaging.version import Version


def needed() -> bool:
    """Whether ``torch.load`` protects by default."""
    return Version(torch.__version__).release >= (2, 6)


def apply(module: ModuleType) -> None:
    """Replaces the module's own ``torch.load``, or marks what resumes."""
    if module.__name__ == 'mmengine.runner.checkpoint':
        module.torch = _TorchWithSafeLoad('torch')  # type: ignore[attr-defined]
        module.load_url = _protected(module.load_url)  # type: ignore[attr-defined]
    else:
        _patch_resume(module.Runner)  # type: ignore[attr-defined]


class _Skipped:
    """Takes the place of log history in weights that are only read."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Skipped':
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _harmless_globals() -> list:
    core = getattr(np, '_core', None) or np.core
    allowed: list = [
        (_Skipped, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_Skipped, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
    ]
    for package in ('numpy.core', 'numpy._core'):
        for name in ('_reconstruct', 'scalar'):
            function = getattr(core.multiarray, name)
            allowed.append((function, f'{package}.multiarray.{name}'))
    allowed += [
        member
        for member in vars(np.dtypes).values()
        if isinstance(member, type)
    ]
    return allowed


_trusted: list[str] = []


@contextlib.contextmanager
def _trusting(path: str) -> Iterator[None]:
    _trusted.append(path)
    try:
        yield
    finally:
        _trusted.remove(path)


class _TorchWithSafeLoad(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
        if file in _trusted:
            return torch.load(file, map_location, weights_only=False, **kwargs)
        return _protected(torch.load)(file, map_location, **kwargs)


def _protected(load: Callable) -> Callable:
    """Adds the protection to a loader of files or, as ``load_url``, URLs."""

    @functools.wraps(load)
    def load_protected(source: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.serialization.safe_globals(_harmless_globals()):
            try:
                return load(source, *args, weights_only=True, **kwargs)
            except pickle.UnpicklingError as error:
                raise pickle.UnpicklingError(
                    f'{source} holds more than weights and was not loaded: '
                    f'{error}\nIf you trust its source, save its state_dict '
                    'alone with torch.save and load that file.'
                ) from error

    return load_protected


def _patch_resume(runner_class: Any) -> None:
    resume = runner_class.resume

    @functools.wraps(resume)
    def resume_own(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        own = os.path.realpath(self.work_dir)
        if not os.path.realpath(filename).startswith(own + os.sep):
            self.logger.warning(
                f'{filename} is not in {self.work_dir}: it is resumed under '
                'weights_only, without its log history.'
            )
            return resume(self, filename, *args, **kwargs)
        self.logger.info(
            f"{filename} is this run's own: it is unpickled in full."
        )
        with _trusting(os.path.expanduser(filename)):
            return resume(self, filename, *args, **kwargs)

    runner_class.resume = resume_own
