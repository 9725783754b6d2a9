"""Lets pip build mmcv 2.1.0 on Python 3.13 and on torch that needs C++20.

With this folder on ``PYTHONPATH`` Python imports this module at its start,
and mmcv's ``setup.py`` is edited while pip runs it. It cannot be edited in a
copy of the source, as pip has to run it to download the source.
"""

import builtins
import importlib.util
import sys
from pathlib import Path
from typing import Any

run = builtins.exec


def edit(setup: str) -> str:
    """Edits the text of mmcv's ``setup.py``."""
    # Since Python 3.13 exec no longer writes to the locals of a function.
    setup = setup.replace(
        "return locals()['__version__']",
        "import runpy; return runpy.run_path(version_file)['__version__']",
    )
    if torch_needs_cpp20():
        setup = setup.replace('-std=c++17', '-std=c++20')
    return setup


def torch_needs_cpp20() -> bool:
    """Whether torch's headers refuse the C++17 that mmcv asks for."""
    torch = importlib.util.find_spec('torch')
    if torch is None or torch.origin is None:
        return False
    header = Path(torch.origin).parent / 'include' / 'ATen' / 'ATen.h'
    return '202002L' in header.read_text()


def edit_and_run(
    code: Any, names: Any = None, *rest: Any, **kwargs: Any
) -> None:
    """Takes the place of ``exec``, with which setuptools runs a set-up."""
    if isinstance(code, str) and 'mmcv/version.py' in code:
        code = edit(code)
    if names is None:
        frame = sys._getframe(1)
        names, rest = frame.f_globals, (frame.f_locals,)
    run(code, names, *rest, **kwargs)


builtins.exec = edit_and_run
