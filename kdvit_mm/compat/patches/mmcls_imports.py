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
import functools
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
    """Adapts what differs between mmpretrain and mmcls."""
    if hasattr(module, 'DartsSubnetClsHead'):
        module.DartsSubnetClsHead._get_aux_loss = _get_aux_loss
    if hasattr(module, 'SearchableImageClassifier'):
        _name_preprocessor(module.SearchableImageClassifier)


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


def _name_preprocessor(classifier: Any) -> None:
    # mmpretrain looks for its preprocessor in the current scope: mmrazor's.
    init = classifier.__init__

    @functools.wraps(init)
    def init_named(
        self: Any, *args: Any, data_preprocessor: Any = None, **kwargs: Any
    ) -> None:
        if data_preprocessor is None or isinstance(data_preprocessor, dict):
            data_preprocessor = {
                'type': 'mmpretrain.ClsDataPreprocessor',
                **(data_preprocessor or {}),
            }
        init(self, *args, data_preprocessor=data_preprocessor, **kwargs)

    classifier.__init__ = init_named


def _get_aux_loss(
    self: Any, cls_score: Any, data_samples: list, **kwargs: Any
) -> dict:
    # The samples of mmpretrain hold labels otherwise; its head reads them.
    main = self.loss_module
    self.loss_module = self.aux_loss_module
    try:
        return self._get_loss(cls_score, data_samples, **kwargs)
    finally:
        self.loss_module = main
