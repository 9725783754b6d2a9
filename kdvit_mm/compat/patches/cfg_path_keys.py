"""Keys beside ``cfg_path`` reach the model, and a local file can be named.

Breaks: ``teacher=dict(cfg_path='mmdet::...', bbox_head=dict(num_classes=3))``
builds 80 classes: mmengine takes the keys as defaults, which the model of the
file already has. ``cfg_path='folder/file.py'`` stops with a message about
packages (open-mmlab/mmrazor issue 460). ``pretrained=True`` loads what fits of
the published weights.
Since: mmrazor 1.0.0rc0, mmengine 0.1.
Can go: when ``mmengine.hub.get_model`` merges its keyword arguments.
"""

import functools
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Always: the behaviour is the same with every torch."""
    return True


def apply(module: ModuleType) -> None:
    """Wraps the function that mmrazor's registry builds models with."""
    build = module.build_razor_model_from_cfg  # type: ignore[attr-defined]

    @functools.wraps(build)
    def build_model(cfg: Any, registry: Any, *args: Any, **kwargs: Any) -> Any:
        from kdvit_mm.models.utils.cfg_path import (
            build_from_cfg_path,
            is_cfg_path,
        )

        if is_cfg_path(cfg):
            return build_from_cfg_path(cfg, registry)
        return build(cfg, registry, *args, **kwargs)

    module.build_razor_model_from_cfg = build_model  # type: ignore[attr-defined]
    module.MODELS.build_func = build_model  # type: ignore[attr-defined]
