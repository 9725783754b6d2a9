"""Activations of student and teacher really do not work in place.

Breaks: mmrazor turns ``inplace`` off by walking through ``module._modules`` as
long as it is an ``OrderedDict``; it is a plain ``dict`` now, so nothing is
turned off and an in-place activation overwrites the record before it.
Since: a torch after 2.1. Upstream:
``BaseAlgorithm.set_module_inplace_false`` at 1.0.0.
Can go: when mmrazor asks ``module.modules()``.
"""

from types import ModuleType
from typing import Any

from torch import nn


def needed() -> bool:
    """Whether torch keeps submodules in another type than mmrazor expects."""
    from collections import OrderedDict

    return not isinstance(nn.Module()._modules, OrderedDict)


def apply(module: ModuleType) -> None:
    """Replaces the walk through the submodules."""

    def set_module_inplace_false(
        self: Any, architecture: nn.Module, varstr: str
    ) -> None:
        for part in architecture.modules():
            if hasattr(part, 'inplace'):
                part.inplace = False  # type: ignore[assignment]

    module.BaseAlgorithm.set_module_inplace_false = set_module_inplace_false  # type: ignore[attr-defined]
