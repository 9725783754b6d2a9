"""Names of task packages' models in configs of this package."""

from kdvit_mm.registry import MODELS


def in_own_scope(model: dict) -> dict:
    """Names the scope of a task package's model, where its defaults are.

    A GFL head, for example, names its box coder without a scope.

    Args:
        model (dict): Config of a model.

    Returns:
        dict: A copy with the scope.
    """
    scope, _, name = str(model.get('type', '')).rpartition('.')
    if name and not scope and MODELS.get(name) is None:
        for package in ('mmdet', 'mmseg', 'mmpretrain'):
            if MODELS.get(f'{package}.{name}') is not None:
                scope = package
                break
    if scope and '_scope_' not in model:
        return type(model)(model, _scope_=scope, type=name)
    return type(model)(model)
