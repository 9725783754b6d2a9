"""Names of task packages' models in configs of this package."""

from collections.abc import Callable

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DefaultScope
from mmengine.utils import get_object_from_string

from kdvit_mm.registry import MODELS, SCOPE


def in_own_scope(model: dict) -> dict:
    """Names the scope of a task package's model, where its defaults are.

    A GFL head, for example, names its box coder without a scope.

    Args:
        model (dict): Config of a model; its type is a name, a dotted import
            path or, in a new-style config, the class itself.

    Returns:
        dict: A copy with the scope.
    """
    kind = model.get('type', '')
    scope = find_scope(kind)
    if not scope or '_scope_' in model:
        return type(model)(model)
    named = type(model)(model, _scope_=scope)
    if isinstance(kind, str):
        named['type'] = _without(scope, kind)
    return named


def find_scope(kind: str | Callable) -> str:
    """Finds the package in whose scope a model is built.

    Args:
        kind (str | Callable): Type of the model as in a config.

    Returns:
        str: The scope, or '' if the current one will do.
    """
    if isinstance(kind, str):
        scope, _, name = kind.partition('.')
        if not name:
            return _package_with(kind)
        if '.' not in name and scope in (*MODULE2PACKAGE, SCOPE, 'mmengine'):
            return scope
        kind = get_object_from_string(kind)
    # A user's own class is built in the scope of the class that it extends.
    for cls in getattr(kind, '__mro__', (kind,)):
        package = str(getattr(cls, '__module__', '')).partition('.')[0]
        if package in MODULE2PACKAGE:
            return package
    return ''


def _package_with(name: str) -> str:
    if name and MODELS.get(name) is None:
        for package in ('mmdet', 'mmseg', 'mmpretrain'):
            if MODELS.get(f'{package}.{name}') is not None:
                return package
    return ''


def _without(scope: str, kind: str) -> str:
    name = kind.removeprefix(f'{scope}.')
    return kind if '.' in name else name


def in_plugin_scope(distiller: dict) -> dict:
    """Lets a distiller be named without scope in a config of any scope.

    In the scope mmrazor the names keep the meaning that they have there.

    Args:
        distiller (dict): Config of a distiller.

    Returns:
        dict: A copy with the scope, or itself in the scope mmrazor.
    """
    current = DefaultScope.get_current_instance()
    if current is not None and current.scope_name == 'mmrazor':
        return distiller
    return type(distiller)({'_scope_': SCOPE, **distiller})
