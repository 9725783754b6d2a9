"""Scripts that know only ``--local_rank`` take ``--local-rank`` as well.

Breaks: ``python -m torch.distributed.launch`` and ``mim train mmrazor
--launcher pytorch`` stop with "unrecognized arguments: --local-rank=0".
Since: torch 2.0 passes the option with a dash. Upstream: mmdet and mmseg
declare both spellings, mmrazor's ``tools/train.py`` does not.
Can go: when mmrazor's scripts declare both.
"""

import argparse
import functools
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Whether torch's launcher writes the option with a dash."""
    import torch

    return int(torch.__version__.split('.')[0]) >= 2


def apply(module: ModuleType) -> None:
    """Lets every parser that declares the old spelling take the new one."""
    add_argument = argparse.ArgumentParser.add_argument

    @functools.wraps(add_argument)
    def add_both(self: Any, *flags: Any, **kwargs: Any) -> argparse.Action:
        if flags == ('--local_rank',):
            flags = ('--local_rank', '--local-rank')
        return add_argument(self, *flags, **kwargs)

    argparse.ArgumentParser.add_argument = add_both  # type: ignore[method-assign]
