"""Starts Python programs as copies of this process.

It has imported what they would import, which takes a new interpreter longer
than most of them work.
"""

import gc
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import mmdet.utils
import mmpretrain.utils
import mmseg.utils
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

for package in (mmdet, mmpretrain, mmseg):
    package.utils.register_all_modules(init_default_scope=False)


class ForkedPopen(subprocess.Popen):
    """Forks for commands ``[sys.executable, 'FILE.py', ...]``."""

    def __init__(
        self,
        args: Sequence[Any],
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Collection[int] = (),
        **options: Any,
    ) -> None:
        def run() -> None:
            run_program([*map(str, args[1:])], env, pass_fds)

        if args[0] == sys.executable and Path(args[1]).suffix == '.py':
            # It never returns to start the command.
            options['preexec_fn'] = run
        super().__init__(args, env=env, pass_fds=pass_fds, **options)


def run_program(
    argv: list[str], env: Mapping[str, str] | None, files: Collection[int]
) -> NoReturn:
    """Runs a program as a new interpreter would, and ends the process."""
    # Closed, another file could get its number, and be closed when what had
    # it first becomes garbage.
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir('/dev/fd')):
        if number > 2 and number not in (null, *files):
            os.dup2(null, number, inheritable=False)
    for number, name, mode, buffering in (
        (0, 'stdin', 'r', -1), (1, 'stdout', 'w', -1), (2, 'stderr', 'w', 1),
    ):  # fmt: skip
        file = open(number, mode, buffering, closefd=False)  # noqa: SIM115
        setattr(sys, name, file)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    for managed in (DefaultScope, MessageHub, MMLogger, Visualizer):
        managed._instance_dict.clear()
    # OpenMP's threads are not copied.
    torch.set_num_threads(1)
    gc.enable()
    status: Any = 0
    try:
        runpy.run_path(argv[0], run_name='__main__')
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        sys.stderr.write(f'{status}\n')
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)
