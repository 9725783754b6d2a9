"""A GPU that needs none: forwards that raise where devices are mixed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
GPU = torch.device('cuda', 0)


class _Decided(TorchDispatchMode):
    """Goes on where values decide: every condition has one answer.

    Fake tensors have no values. Sizes agree with each other: a mask has all
    its places, and the sum of a mask is their number. Convolutions and random
    generators are checked too, as a GPU's kernels do.
    """

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self.answer = answer

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is aten._local_scalar_dense.default:
            return self._value(args[0])
        if func is aten.nonzero.default:
            return _places(args[0], args[0].dim())
        if func is aten._unique2.default:
            flat = args[0].flatten()
            return flat.clone(), *_places(flat, 2).unbind(1)
        if func in (aten.index.Tensor, aten.index_put_.default):
            args = (args[0], _without_masks(args[1]), *args[2:])
        devices = set()
        if func is aten.convolution.default:  # which fake tensors let pass
            devices = {x.device for x in args if isinstance(x, torch.Tensor)}
        generator = kwargs.get('generator')
        if generator is not None:
            kwargs['generator'] = None
            devices.add(generator.device)
        result = func(*args, **kwargs)
        if devices and devices != {result.device}:
            raise RuntimeError(f'{func} mixes {devices} for {result.device}')
        is_sum = func in (aten.sum.default, aten.sum.dim_IntList)
        if is_sum and args[0].dtype == torch.bool and result.dim() == 0:
            result.known = args[0].numel()
        return result

    def _value(self, scalar: torch.Tensor) -> Any:
        if scalar.dtype == torch.bool:
            return self.answer
        if scalar.is_floating_point():
            return 1e-9
        return getattr(scalar, 'known', 0)


def _places(mask: torch.Tensor, dims: int) -> torch.Tensor:
    size = (mask.numel(), dims)
    return torch.empty(size, dtype=torch.long, device=mask.device)


def _without_masks(indices: list) -> list:
    found: list = []
    for index in indices:
        if index is not None and index.dtype == torch.bool:
            found += _places(index, index.dim()).unbind(1)
        else:
            found.append(index)
    return found


@contextmanager
def fake_gpu(answer: bool = True) -> Iterator[None]:
    """Inside, tensors may be made on a GPU; what is computed has no values.

    Args:
        answer (bool): What every condition on values comes out as. Defaults
            to True.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, _Decided(answer), patch.object(nn.Module, '_apply', _apply):
        yield


def _apply(self: nn.Module, fn: Callable, recurse: bool = True) -> nn.Module:
    """As torch's, which cannot change the device of a fake parameter."""
    for child in self.children():
        child._apply(fn)
    for name, old in self._parameters.items():
        if old is not None:
            new = nn.Parameter(fn(old.detach()), old.requires_grad)
            self._parameters[name] = new
    for name, old in self._buffers.items():
        if old is not None:
            self._buffers[name] = fn(old)
    return self


def maps(*shape: int, requires_grad: bool = True) -> torch.Tensor:
    """Features on the GPU."""
    return torch.randn(shape, device=GPU, requires_grad=requires_grad)
