"""Finds the distill losses that hooks measure and change."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdvit_mm.models.utils.checkpoint_kind import unwrapped


def find_distiller(hook: Hook, runner: Runner) -> ConfigurableDistiller:
    """The distiller of a runner's model.

    Args:
        hook (Hook): The hook that needs it, for the message.
        runner (Runner): The runner.

    Returns:
        ConfigurableDistiller: The distiller.

    Raises:
        TypeError: If the model is not a distillation with one.
    """
    model = unwrapped(runner.model)
    distiller = getattr(model, 'distiller', None)
    if not isinstance(distiller, ConfigurableDistiller):
        raise TypeError(
            f'{type(hook).__name__} needs a distillation algorithm as model, '
            f'but got {type(model).__name__}. Remove it from custom_hooks.'
        )
    return distiller


def find_losses(
    hook: Hook, losses: str | Sequence[str], distiller: ConfigurableDistiller
) -> list[str]:
    """Names of the distill losses that a config key addresses.

    Args:
        hook (Hook): The hook that has the key, for the message.
        losses (str | Sequence[str]): A name in ``distill_losses``, several,
            or ``'*'`` for all.
        distiller (ConfigurableDistiller): The distiller.

    Returns:
        list[str]: The names.

    Raises:
        ValueError: If there is no such loss.
    """
    known = list(distiller.distill_losses)
    if losses == '*':
        return known
    names = [losses] if isinstance(losses, str) else list(losses)
    for name in names:
        if name not in known:
            raise ValueError(
                f'{type(hook).__name__}: there is no distill loss "{name}". '
                f'distiller.distill_losses has {", ".join(known)}.'
            )
    return names


def find_parts(
    hook: Hook, name: str, key: str, distiller: ConfigurableDistiller
) -> list[Any]:
    """The loss of a name if it has a value, or the losses inside that do.

    Args:
        hook (Hook): The hook that changes the value, for the message.
        name (str): The loss's name.
        key (str): The value, ``'loss_weight'`` or ``'tau'``.
        distiller (ConfigurableDistiller): The distiller.

    Returns:
        list[nn.Module]: The modules whose attribute it is.

    Raises:
        ValueError: If none has it.
    """
    loss = distiller.distill_losses[name]
    parts = [
        part
        for part in loss.modules()
        if isinstance(getattr(part, key, None), (int, float))
    ]
    if not parts:
        raise ValueError(
            f'{type(hook).__name__}: {type(loss).__name__} ("{name}") has no '
            f'{key} to change.'
        )
    return parts[:1] if parts[0] is loss else parts


def obstacle_to_measuring(
    wrapper: nn.Module, losses: Sequence[nn.Module]
) -> str | None:
    """What a measurement of gradients within a step would interfere with.

    Args:
        wrapper (nn.Module): The runner's model.
        losses (Sequence[nn.Module]): Its distill losses.

    Returns:
        str | None: The obstacle, or None.
    """
    for loss in losses:
        if getattr(loss, 'decides', False):
            return f'{type(loss).__name__} measures them itself'
    if is_model_wrapper(wrapper) and not isinstance(
        wrapper, DistributedDataParallel
    ):
        return f'the model is in a {type(wrapper).__name__}'
    return None
