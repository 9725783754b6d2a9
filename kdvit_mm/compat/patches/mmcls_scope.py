"""Configs that name the scope ``mmcls`` get mmpretrain's.

Breaks: ``type='mmcls.X'``, ``_scope_='mmcls'``, ``default_scope='mmcls'`` and
files such as ``mmcls::resnet/resnet50_8xb32_in1k.py``, as in mmrazor's own
configs, stop with "mmcls is not installed". mmrazor's RazorVisualizationHook
calls ``add_datasample`` of mmcls's visualizer, which mmpretrain's lacks:
"unexpected keyword argument 'out_file'".
Since: mmcls 1.0 was released as mmpretrain. Upstream: ``configs`` of
open-mmlab/mmrazor at 1.0.0.
Can go: when mmrazor's configs name mmpretrain.
"""

import functools
import importlib.util
from types import ModuleType
from typing import Any

from kdvit_mm.compat.patches.mmcls_imports import RENAMED

_RENAMED = RENAMED | {'ClsVisualizer': 'UniversalVisualizer'}


def needed() -> bool:
    """Whether there is mmpretrain, but no mmcls."""
    return not importlib.util.find_spec('mmcls') and bool(
        importlib.util.find_spec('mmpretrain')
    )


def apply(module: ModuleType) -> None:
    """Translates the scope where mmengine reads it."""
    {
        'mmengine.config.utils': _patch_packages,
        'mmengine.registry.default_scope': _patch_default_scope,
        'mmengine.registry.registry': _patch_registry,
        'mmengine.hub': _patch_hub,
        'mmengine.hub.hub': _patch_hub,
        'mmpretrain.visualization.visualizer': _patch_visualizer,
    }[module.__name__](module)


def _patch_packages(module: Any) -> None:
    module.MODULE2PACKAGE['mmcls'] = 'mmpretrain'


def _patch_default_scope(module: Any) -> None:
    scope = module.DefaultScope
    init = scope.__init__

    @functools.wraps(init)
    def init_translated(self: Any, name: str, scope_name: str) -> None:
        init(self, name, 'mmpretrain' if scope_name == 'mmcls' else scope_name)

    scope.__init__ = init_translated


def _patch_registry(module: Any) -> None:
    split = module.Registry.split_scope_key

    @functools.wraps(split)
    def split_translated(key: str) -> tuple[str | None, str]:
        scope, real_key = split(key)
        if scope == 'mmcls':
            return 'mmpretrain', _RENAMED.get(real_key, real_key)
        return scope, real_key

    module.Registry.split_scope_key = staticmethod(split_translated)


def _patch_hub(module: Any) -> None:
    get_model = module.get_model

    @functools.wraps(get_model)
    def get_translated(cfg_path: str, *args: Any, **kwargs: Any) -> Any:
        package, separator, file = cfg_path.partition('::')
        if package == 'mmcls':
            cfg_path = f'mmpretrain{separator}{file}'
        return get_model(cfg_path, *args, **kwargs)

    module.get_model = get_translated


def _patch_visualizer(module: Any) -> None:
    def add_datasample(
        self: Any,
        name: str,
        image: Any,
        data_sample: Any = None,
        **kwargs: Any,
    ) -> Any:
        if data_sample is None:
            data_sample = module.DataSample()
        return self.visualize_cls(image, data_sample, name=name, **kwargs)

    module.UniversalVisualizer.add_datasample = add_datasample
