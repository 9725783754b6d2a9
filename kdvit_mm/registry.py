"""Registries of scope ``kdvit_mm``: children of mmrazor's registries.

A class registered here is found as ``kdvit_mm.Name`` from every scope of the
OpenMMLab family and as plain ``Name`` in the scope ``kdvit_mm``. In the scope
``mmrazor`` plain ``Name`` finds it too, unless mmrazor has a class of that
name itself: a recipe written for mmrazor keeps its meaning.
"""

import difflib
import functools
import inspect
import warnings
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from mmrazor import registry as mmrazor_registry

SCOPE = 'kdvit_mm'


class RenamedKeyWarning(DeprecationWarning):
    """A config has a key that has been renamed."""


# Shown to users, as other deprecation warnings are not, and once per key.
warnings.simplefilter('once', RenamedKeyWarning)


class PluginRegistry(Registry):
    """A child of a mmrazor registry that is reachable from every scope.

    Args:
        node (str): Name of the node in :mod:`mmrazor.registry`, for example
            ``'MODELS'``.
    """

    def __init__(self, node: str) -> None:
        parent: Registry = getattr(mmrazor_registry, node)
        super().__init__(
            parent.name, parent=parent, scope=SCOPE, locations=[SCOPE]
        )
        # mmengine resolves "scope.Name" among the root's direct children.
        getattr(mmengine_registry, node)._add_child(self)

    def _register_module(
        self,
        module: type,
        module_name: str | list[str] | None = None,
        force: bool = False,
    ) -> None:
        super()._register_module(module, module_name, force)
        assert self.parent is not None
        names = module_name or module.__name__
        for name in [names] if isinstance(names, str) else names:
            self.parent.module_dict.setdefault(name, module)
        if inspect.isclass(module):
            _explain_unknown_keys(module)


def _explain_unknown_keys(cls: type) -> None:
    """Makes ``cls(unknown=...)`` name the closest key that it knows.

    The ``renamed_keys`` of a class, new names by old ones, are taken with a
    warning; of its ``removed_keys`` it says what is there instead.
    """
    init = cls.__init__  # type: ignore[misc]
    parameters = inspect.signature(init).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name != 'self']
    renamed: dict[str, str] = getattr(cls, 'renamed_keys', {})
    removed: dict[str, str] = getattr(cls, 'removed_keys', {})

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        for old in [key for key in renamed if key in kwargs]:
            new = renamed[old]
            if new in kwargs:
                raise TypeError(
                    f'{cls.__name__} got {new} and its old name {old}. Drop '
                    f'{old}.'
                )
            kwargs[new] = kwargs.pop(old)
            warnings.warn(
                f'{cls.__name__}: {old} is now {new}; replace it in your '
                'config.',
                RenamedKeyWarning,
                stacklevel=2,
            )
        for key in kwargs:
            if key in removed:
                raise TypeError(
                    f'{cls.__name__} has no config key "{key}" any more. '
                    f'{removed[key]}'
                )
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f' Did you mean "{close[0]}"?' if close else ''
                raise TypeError(
                    f'{cls.__name__} has no config key "{key}".{hint} '
                    f'Its keys are: {", ".join(known) or "none"}.'
                )
        init(self, *args, **kwargs)

    cls.__init__ = checked_init  # type: ignore[misc]


MODELS = PluginRegistry('MODELS')
TASK_UTILS = PluginRegistry('TASK_UTILS')
HOOKS = PluginRegistry('HOOKS')
DATASETS = PluginRegistry('DATASETS')
DATA_SAMPLERS = PluginRegistry('DATA_SAMPLERS')
TRANSFORMS = PluginRegistry('TRANSFORMS')
OPTIMIZERS = PluginRegistry('OPTIMIZERS')
OPTIM_WRAPPERS = PluginRegistry('OPTIM_WRAPPERS')
LOOPS = PluginRegistry('LOOPS')
OPTIM_WRAPPER_CONSTRUCTORS = PluginRegistry('OPTIM_WRAPPER_CONSTRUCTORS')
