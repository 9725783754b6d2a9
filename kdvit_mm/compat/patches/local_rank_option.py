"""mmrazor's scripts, which know ``--local_rank``, take ``--local-rank`` too.

Breaks: ``mim train mmrazor --launcher pytorch`` stops with "unrecognized
arguments: --local-rank=0".
Since: torch 2.0 passes the option with a dash. Upstream: mmdet and mmseg
declare both spellings, mmrazor's ``tools/train.py`` does not.
Can go: when mmrazor's scripts declare both.
"""

import argparse
import functools
import os
import sys
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Whether this is a script of mmrazor, started by torch 2 or later."""
    import mmrazor
    import torch

    tools = os.path.join(mmrazor.__path__[0], '.mim', 'tools')
    script = os.path.realpath(sys.argv[0])
    return script.startswith(os.path.realpath(tools) + os.sep) and (
        int(torch.__version__.split('.')[0]) >= 2
    )


def apply(module: ModuleType) -> None:
    """Lets a parser that declares the old spelling take the new one."""
    add_argument = argparse.ArgumentParser.add_argument

    @functools.wraps(add_argument)
    def add_both(self: Any, *flags: Any, **kwargs: Any) -> argparse.Action:
        if flags == ('--local_rank',):
            flags = ('--local_rank', '--local-rank')
        return add_argument(self, *flags, **kwargs)

    argparse.ArgumentParser.add_argument = add_both  # type: ignore[method-assign]
