"""The packages' inference interfaces take a distillation config.

Breaks: ``mmdet.apis.init_detector`` and ``mmseg.apis.init_model`` stop at
"'ConfigDict' object has no attribute 'backbone'"; the inferencers and
``mmpretrain.get_model`` build the whole distillation, teacher included.
Since: mmrazor 1.0.0rc0.
Can go: when mmrazor has inference interfaces of its own.

The student's own config takes the place of the distillation's. Applied at
start-up, since a script that calls ``init_detector`` need not import kdvit_mm.
"""

import copy
import functools
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_FUNCTIONS = {
    'mmdet.apis.inference': 'init_detector',
    'mmseg.apis.inference': 'init_model',
    'mmpretrain.apis.model': 'get_model',
}


def needed() -> bool:
    """Always: the behaviour is the same with every torch."""
    return True


def apply(module: ModuleType) -> None:
    """Wraps the inferencers' or the package's function that builds models."""
    if module.__name__ == 'mmengine.infer.infer':
        _patch_inferencer(module.BaseInferencer)  # type: ignore[attr-defined]
        return
    name = _FUNCTIONS[module.__name__]
    function = getattr(module, name)
    patched = _for_student(function)
    package = module.__name__.partition('.')[0]
    # Modules of the package that have taken the name from this one, too.
    for key, other in list(sys.modules.items()):
        ours = key.partition('.')[0] == package
        if ours and vars(other).get(name) is function:
            setattr(other, name, patched)


def _for_student(function: Callable) -> Callable:
    signature = inspect.signature(function)
    first = next(iter(signature.parameters))

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> Any:
        from mmengine.config import Config

        bound = signature.bind(*args, **kwargs)
        cfg = bound.arguments[first]
        # mmpretrain takes names of models as well.
        if isinstance(cfg, str | os.PathLike) and os.path.isfile(cfg):
            cfg = Config.fromfile(cfg)
        if isinstance(cfg, Config) and _is_distillation(cfg):
            from kdvit_mm.models.utils.student_config import student_config

            # Options are written for the config that the user named.
            options = bound.arguments.pop('cfg_options', None)
            cfg = copy.deepcopy(cfg)
            cfg.merge_from_dict(options or {})
            cfg = student_config(cfg)
        bound.arguments[first] = cfg
        return function(*bound.args, **bound.kwargs)

    return build


def _is_distillation(cfg: Any) -> bool:
    # As student_config.is_distillation, without importing all of kdvit_mm.
    model = cfg.get('model')
    return isinstance(model, dict) and 'distiller' in model


def _patch_inferencer(inferencer: Any) -> None:
    init_model = inferencer._init_model

    @functools.wraps(init_model)
    def init_student(
        self: Any, cfg: Any, weights: str | None, device: str = 'cpu'
    ) -> Any:
        if not cfg and weights is not None:
            cfg.update(_config_in(weights))
        if _is_distillation(cfg):
            from kdvit_mm.models.utils.student_config import student_config

            # In place, as the inferencer goes on with it.
            plain = student_config(cfg)
            for key in {'model', 'test_dataloader'} & set(plain):
                cfg[key] = plain[key]
        return init_model(self, cfg, weights, device)

    inferencer._init_model = init_student


def _config_in(weights: str) -> dict:
    """Reads the config in a checkpoint, from where mmengine reads it."""
    from mmengine.config import Config
    from mmengine.runner.checkpoint import _load_checkpoint

    checkpoint = _load_checkpoint(weights, map_location='cpu')
    hub = checkpoint.get('message_hub', {}).get('runtime_info', {})
    text = hub.get('cfg') or checkpoint.get('meta', {}).get('cfg')
    return Config.fromstring(text, '.py')._cfg_dict if text else {}
