"""Models that a config names by the config that describes them."""

import copy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import Registry
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn

from kdvit_mm.models.utils.scope import in_own_scope


def is_cfg_path(model: dict) -> bool:
    """Whether a model is given as ``dict(cfg_path=...)``.

    Args:
        model (dict): Config of the model.

    Returns:
        bool: True if it is.
    """
    return bool(model.get('cfg_path')) and not model.get('type')


def resolve_cfg_path(model: dict) -> ConfigDict:
    """Replaces ``dict(cfg_path=..., ...)`` with the config of the model.

    Keys beside ``cfg_path`` and ``pretrained`` change the model as they would
    in a config that inherits from it, ``_delete_`` included.

    Args:
        model (dict): Config of a model, with or without ``cfg_path``.

    Returns:
        ConfigDict: Config of the model in its own scope. The weights of
        ``pretrained`` are not named in it.

    Raises:
        ValueError: If the file cannot be read, holds no model, or has no
            weights although ``pretrained`` is set, or if a key does not fit.
    """
    if not is_cfg_path(model):
        return ConfigDict(in_own_scope(model))
    return _read(model)[0]


def build_from_cfg_path(model: dict, registry: Registry) -> BaseModel:
    """Builds a model from ``dict(cfg_path=..., pretrained=..., ...)``.

    Args:
        model (dict): Config of the model.
        registry (Registry): Builds it.

    Returns:
        BaseModel: The model, with its published weights if ``pretrained``.

    Raises:
        ValueError: As :func:`resolve_cfg_path` does, or if keys beside
            ``cfg_path`` make a model that the published weights do not fit.
    """
    config, weights = _read(model)
    built = registry.build(config)
    if weights is not None:
        if _changes(model):
            _check_weights(built, weights, model)
        load_checkpoint(built, weights, map_location='cpu')
        # Else the runner's init_weights would overwrite them.
        built._is_init = True
    return built


def _read(model: dict) -> tuple[ConfigDict, str | None]:
    """Returns the changed model config and where its weights are."""
    path, pretrained = model['cfg_path'], bool(model.get('pretrained'))
    if '::' in path:
        try:
            cfg = get_config(path, pretrained)
        except (AssertionError, OSError, ValueError) as error:
            raise ValueError(
                f'cfg_path "{path}" cannot be read: {error}'
            ) from error
        scope = path.partition('::')[0]
    else:
        cfg, scope = _read_file(path, pretrained), ''
    if 'model' not in cfg:
        raise ValueError(f'cfg_path "{path}" is a config without a model.')
    weights = cfg.get('model_path') if pretrained else None
    if pretrained and weights is None:
        raise ValueError(
            f'cfg_path "{path}" has pretrained=True, but its package '
            'publishes no weights for it. Set pretrained=False and give the '
            "teacher's weights by model.teacher_ckpt, the student's by "
            'load_from.'
        )
    config = cfg.model
    if cfg.get('data_preprocessor'):
        config.data_preprocessor = cfg.data_preprocessor
    try:
        config = Config._merge_a_into_b(_changes(model), config)
    except TypeError as error:
        raise ValueError(
            f'The keys beside cfg_path "{path}" do not fit its model: {error}'
        ) from error
    if scope:
        config.setdefault('_scope_', scope)
    return ConfigDict(in_own_scope(config)), weights


def _read_file(path: str, pretrained: bool) -> Config:
    if not Path(path).is_file():
        raise ValueError(
            f'cfg_path "{path}" is neither a file, seen from the working '
            f'directory {Path.cwd()}, nor of the form '
            '"package::folder/name.py". For a file seen from the config '
            'import mmengine in the config and write '
            f"mmengine.Config.fromfile('{{{{ fileDirname }}}}/{path}').model."
        )
    if pretrained:
        raise ValueError(
            f'cfg_path "{path}" is a local file, which names no published '
            'weights: pretrained=True is for "package::folder/name.py". '
            "Give the teacher's weights by model.teacher_ckpt, the "
            "student's by load_from."
        )
    return Config.fromfile(path)


def _changes(model: dict) -> ConfigDict:
    """Takes the keys that change the model, as merging writes into them."""
    changes = copy.deepcopy(ConfigDict(model))
    for key in ('cfg_path', 'pretrained', '_scope_'):
        changes.pop(key, None)
    # An algorithm hands on that it has none of its own.
    if changes.get('data_preprocessor') is None:
        changes.pop('data_preprocessor', None)
    return changes


def _check_weights(built: nn.Module, weights: str, model: dict) -> None:
    """Raises where the published weights do not fill the changed model."""
    checkpoint = _load_checkpoint(weights, map_location='cpu')
    state = checkpoint.get('state_dict', checkpoint)
    own = built.state_dict()
    misfits = [
        f'{key} is {tuple(own[key].shape)} in the model and '
        f'{tuple(value.shape)} in the checkpoint'
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    misfits += [
        f'{key} is not in the checkpoint'
        for key in own.keys() - state.keys()
        if not key.endswith('num_batches_tracked')
    ]
    if misfits:
        changed = ', '.join(_changes(model))
        raise ValueError(
            f'The published weights of cfg_path "{model["cfg_path"]}" do not '
            f'fit the model with its keys {changed} changed, in '
            f'{len(misfits)} of {len(own)} weights: '
            f'{"; ".join(sorted(misfits)[:3])}. Drop these keys, or set '
            'pretrained=False and give weights that fit: the '
            "teacher's by model.teacher_ckpt, the student's by load_from."
        )
