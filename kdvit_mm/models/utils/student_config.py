"""The plain config of the student in a distillation config."""

import copy
from typing import Any

from mmengine import registry as mmengine_registries
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS, Registry

from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.registry import SCOPE

# What the packages' inferencers replace in a test pipeline, by these names.
LOOKED_FOR = ('LoadImageFromFile', 'LoadAnnotations', 'LoadDepthAnnotation')


def is_distillation(cfg: Config | ConfigDict) -> bool:
    """Whether the model of a config is a distillation.

    Args:
        cfg (Config | ConfigDict): The config.

    Returns:
        bool: True if the model has a student and a distiller.
    """
    model = cfg.get('model')
    return isinstance(model, dict) and {'architecture', 'distiller'} <= set(
        model
    )


def student_model(
    cfg: Config | ConfigDict, name: str = 'student'
) -> ConfigDict:
    """Takes a student's model out of a distillation config.

    Args:
        cfg (Config | ConfigDict): The config.
        name (str): One of the peers of a ``MutualDistill``. Defaults to
            'student', the student, of several the first.

    Returns:
        ConfigDict: Config of the student alone, in its own scope and with the
        data preprocessor that it has in the distillation.
    """
    first = in_own_scope(cfg.model.architecture)
    # The runner gives the algorithm the preprocessor of the top level.
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if given:
        first['data_preprocessor'] = given
    first = copy.deepcopy(resolve_cfg_path(first))
    if name == 'student':
        return first
    peer = copy.deepcopy(resolve_cfg_path(cfg.model.peers[name]))
    # All students see what the first one's leaves.
    peer.data_preprocessor = first.get('data_preprocessor')
    return peer


def student_config(cfg: Config, name: str = 'student') -> Config:
    """Turns a distillation config into a student's own.

    Args:
        cfg (Config): Any config; it is left as it is.
        name (str): One of the peers of a ``MutualDistill``. Defaults to
            'student', the student, of several the first.

    Returns:
        Config: The same config, if it is not a distillation; else a copy whose
        model is the student alone, without hooks that need a distillation.
        Its test pipeline has the names that the packages' inferencers look
        for.
    """
    if not is_distillation(cfg):
        return cfg
    plain = copy.deepcopy(cfg)
    plain.model = student_model(cfg, name)
    _train_one(plain, name)
    _drop_hooks(plain)
    _name_loading(plain)
    return plain


def _train_one(cfg: Config, name: str) -> None:
    """Replaces the loop and the constructor that are for several students."""
    loop = cfg.get('val_cfg') or {}
    if _class_name(loop.get('type')) == 'EachStudentValLoop':
        loop['type'] = 'mmengine.ValLoop'
    wrapper = cfg.get('optim_wrapper') or {}
    if _class_name(wrapper.get('constructor')) == 'EachStudentConstructor':
        del wrapper['constructor']
        cfg.optim_wrapper = wrapper.get(name, wrapper)


def _class_name(kind: Any) -> str:
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def _name_loading(cfg: Config) -> None:
    """Gives loading steps of test pipelines their bare names."""
    scope = cfg.get('default_scope') or 'mmengine'
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    # mmseg reads the one or the other.
    for pipeline in (dataset.get('pipeline'), cfg.get('test_pipeline')):
        for step in pipeline or ():
            name = _registered_name(step['type'], scope)
            if name in LOOKED_FOR:
                step['type'] = name


def plain_text(cfg: Config) -> str:
    """Writes a plain config that can be read without kdvit_mm.

    Args:
        cfg (Config): The config.

    Returns:
        str: Text for ``Config.fromstring``. Classes are written by their
        registered names. The import of kdvit_mm stays only if the model or
        the data need it.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    plain = Config(_named(cfg.to_dict(), scope))
    _drop_hooks(plain)
    for part in ('teacher', 'distiller'):  # left over from bases
        plain.pop(part, None)
    imports = plain.pop('custom_imports', None)
    if imports is not None:
        names = imports['imports']
        names = [names] if isinstance(names, str) else names
        if SCOPE not in plain.pretty_text:
            names = [n for n in names if n.partition('.')[0] != SCOPE]
        if names:
            plain.custom_imports = dict(imports, imports=names)
    return plain.pretty_text


def _drop_hooks(cfg: Config) -> None:
    """Drops the hooks of the distillation packages."""
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [h for h in cfg.custom_hooks if not _distils(h)]


def _distils(hook: Any) -> bool:
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    if isinstance(kind, str):
        kind = HOOKS.get(kind)
    package = str(getattr(kind, '__module__', '')).partition('.')[0]
    return package in (SCOPE, 'mmrazor')


def _named(value: Any, scope: str) -> Any:
    """Copies a part of a config with registered names for classes."""
    if isinstance(value, dict):
        copied = {key: _named(item, scope) for key, item in value.items()}
        if 'type' in value:
            copied['type'] = _registered_name(value['type'], scope)
        return copied
    if isinstance(value, (list, tuple)):
        return type(value)(_named(item, scope) for item in value)
    return value


def _registered_name(kind: Any, scope: str) -> Any:
    """Finds the shortest name of a class or named class in a scope."""
    if not isinstance(kind, str):
        kind = f'{kind.__module__}.{kind.__qualname__}'
    name = kind.rpartition('.')[2]
    if name == kind:
        return kind
    for registry in vars(mmengine_registries).values():
        cls = registry.get(kind) if isinstance(registry, Registry) else None
        if cls is not None:
            current = registry._search_child(scope) or registry
            if current.get(name) is cls:
                return name
            package = str(getattr(cls, '__module__', '')).partition('.')[0]
            child = registry._search_child(package)
            if child is not None and child.module_dict.get(name) is cls:
                return f'{package}.{name}'
    return kind
