"""Stops programs and their child processes on signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from mmengine.dist import barrier, is_distributed
from torch.distributed import destroy_process_group

#: How long a child may take to stop before it is killed.
STOP_SECONDS = 60
#: Tells a child which process it must not outlive.
PARENT = 'KDVIT_MM_PARENT'


class Stopped(KeyboardInterrupt):
    """A signal has asked this program to stop.

    Args:
        number (int): The signal's number.

    Attributes:
        status (int): What the program then hands to ``sys.exit``.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def stop_on_signals() -> None:
    """Lets SIGINT, SIGTERM and SIGHUP raise :class:`Stopped`.

    SIGINT also where a shell has turned it off, as in a script's background
    commands; SIGHUP not under ``nohup``. A program that was started by
    :func:`start_child`, itself or through a launcher, is stopped by the end
    of its parent, too, even if that was killed.

    Python drops what is raised in a destructor or callback, such as that of
    a data loader: the signal then comes again a moment later.
    """
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _stop)
    os.register_at_fork(after_in_child=_end_as_usual)
    sys.unraisablehook = _stop_later
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        threading.Thread(
            target=_stop_with, args=(int(parent),), daemon=True
        ).start()


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _stop_later(dropped: 'sys.UnraisableHookArgs') -> None:
    error = dropped.exc_value
    if isinstance(error, Stopped):
        number = error.status - 128
        again = threading.Timer(0.1, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(dropped)


def _end_as_usual() -> None:
    """In workers, which their pool or data loader ends by a signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop_with(parent: int) -> None:
    """With its session, which nobody else would kill."""
    # A launcher may stand between the two.
    starter = os.getppid()
    with suppress(ProcessLookupError):
        while os.getppid() == starter:
            os.kill(parent, 0)
            time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.killpg(0, signal.SIGKILL)


def start_child(
    command: Sequence[str], env: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen:
    """Starts a process that this one ends by :func:`end_children`.

    It has a session of its own: Ctrl-C reaches it through this process alone,
    and once.

    Args:
        command (Sequence[str]): Program and arguments.
        env (dict[str, str] | None): Its environment. Defaults to None, that
            of this process.
        **options (Any): Options of :class:`subprocess.Popen`.

    Returns:
        subprocess.Popen: The process.
    """
    return subprocess.Popen(
        command,
        env={**(env or os.environ), PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )


def end_children(*children: subprocess.Popen) -> None:
    """Asks processes to stop, waits for it, and kills what is left of them.

    Args:
        *children (subprocess.Popen): Processes of :func:`start_child`; some
            may have ended by themselves.
    """
    for child in children:
        child.terminate()
    for child in children:
        # Asked to stop once more, this process does not wait any longer.
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def leave_process_group() -> None:
    """Ends a distributed run on all ranks at once.

    A rank whose process ends while another still talks to it can abort that
    one, after all work is done.
    """
    if is_distributed():
        barrier()
        destroy_process_group()
