"""What distilling a level costs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class _ElementCounter(TorchDispatchMode):
    """Counts one operation per element where torch's counter counts none."""

    def __init__(self, counted: Any) -> None:
        super().__init__()
        self.counted = counted
        self.operations = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket not in self.counted and not func.is_view:
            # A reduction reads more than it writes.
            self.operations += max(
                _elements(result), *(_elements(x) for x in args), 0
            )
        return result


def _elements(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, list | tuple):
        return sum(map(_elements, value))
    return 0


def count_operations(function: Callable[[], Any]) -> int:
    """Floating point operations of a function, without those backward.

    Matrix products and convolutions are counted by torch's FLOP counter, two
    per multiply-add. It counts nothing else, which is all there is in most
    distill losses: these operations count one for each element of their
    largest tensor.

    Args:
        function (Callable[[], Any]): The function.

    Returns:
        int: Its operations.
    """
    flops = FlopCounterMode(display=False)
    # Its name up to torch 2.1 and since.
    counted = vars(flops).get('flop_mapping') or flops.flop_registry
    elements = _ElementCounter(counted)
    with torch.no_grad(), flops, elements:
        function()
    return flops.get_total_flops() + elements.operations
