"""mmrazor's imports of ``mmcls`` find the classes of mmpretrain.

Breaks: KDSoftCELoss, DeiTClsHead, DartsSubnetClsHead, the searchable
classifier and backbones, PackCRDClsInputs and what else builds on mmcls are
placeholders that raise a TypeError when they are used.
Since: mmcls 1.0 was released as mmpretrain. Upstream: open-mmlab/mmrazor
imports ``mmcls`` at 1.0.0.
Can go: when mmrazor imports mmpretrain.

Only mmrazor's own modules see an ``mmcls``: their import statement is
replaced, which works because Python looks it up in the ``__builtins__`` of
the module. ``import mmcls`` fails elsewhere as before.
"""

import builtins
import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

RENAMED = {'PackClsInputs': 'PackInputs', 'ClsDataSample': 'DataSample'}


def needed() -> bool:
    """Whether there is mmpretrain, but no mmcls."""
    return not importlib.util.find_spec('mmcls') and bool(
        importlib.util.find_spec('mmpretrain')
    )


def prepare(module: ModuleType) -> None:
    """Gives a module that is about to run its own import statement."""
    names = vars(builtins) | {'__import__': _import}
    module.__dict__['__builtins__'] = names


def apply(module: ModuleType) -> None:
    """Lets the DARTS head read the samples of mmpretrain."""
    head = getattr(module, 'DartsSubnetClsHead', None)
    if head is not None:
        head._get_aux_loss = _get_aux_loss


def _import(
    name: str,
    globals: Any = None,
    locals: Any = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    package, _, submodule = name.partition('.')
    if level or package != 'mmcls':
        return builtins.__import__(name, globals, locals, fromlist, level)
    module = importlib.import_module(f'mmpretrain.{submodule}')
    return SimpleNamespace(
        **{n: getattr(module, RENAMED.get(n, n)) for n in fromlist or ()}
    )


def _get_aux_loss(
    self: Any, cls_score: Any, data_samples: list, **kwargs: Any
) -> dict:
    main = self.loss_module
    self.loss_module = self.aux_loss_module
    try:
        return self._get_loss(cls_score, data_samples, **kwargs)
    finally:
        self.loss_module = main
