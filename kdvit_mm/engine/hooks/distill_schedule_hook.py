"""Schedules of distill losses' weights and temperatures."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn

from kdvit_mm.engine.distill_losses import (
    find_distiller,
    find_losses,
    find_parts,
)
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.registry import HOOKS


def constant(now: int, begin: int, end: int, factor: float) -> float:
    """The factor between begin and end, 1 before and after."""
    return factor if begin <= now < end else 1.0


def linear(
    now: int,
    begin: int,
    end: int,
    start_factor: float = 1.0,
    end_factor: float = 1.0,
) -> float:
    """From start_factor at begin to end_factor at end, in equal steps."""
    return start_factor + (end_factor - start_factor) * _share(now, begin, end)


def cosine(
    now: int,
    begin: int,
    end: int,
    start_factor: float = 1.0,
    end_factor: float = 1.0,
) -> float:
    """From start_factor at begin to end_factor at end, by half a cosine."""
    left = (1 + math.cos(math.pi * _share(now, begin, end))) / 2
    return end_factor + (start_factor - end_factor) * left


def step(
    now: int,
    begin: int,
    end: int,
    milestones: Sequence[int],
    gamma: float = 0.1,
) -> float:
    """Times gamma at each milestone between begin and end."""
    return gamma ** sum(begin <= m <= min(now, end) for m in milestones)


def _share(now: int, begin: int, end: int) -> float:
    """How far it is from begin to end, in [0, 1]."""
    return min(max((now - begin) / (end - begin), 0.0), 1.0)


POLICIES: dict[str, Callable[..., float]] = {
    'constant': constant,
    'linear': linear,
    'cosine': cosine,
    'step': step,
}


@HOOKS.register_module()
class DistillScheduleHook(Hook):
    """Changes weights or temperatures of distill losses while training.

    A schedule multiplies the value that the config gives by a factor, which
    depends on the epoch or the iteration alone, so that a resumed run goes on
    as it would have. Factors of several schedules of one value multiply: a
    warm-up and a decay are two schedules. Works with every loss that has the
    value as an attribute, mmrazor's own included. ::

        custom_hooks = [
            dict(
                type='kdvit_mm.DistillScheduleHook',
                schedules=[
                    dict(loss='loss_dkd', type='linear',
                         start_factor=0.05, begin=0, end=19),
                    dict(loss='loss_kd', key='tau', type='cosine',
                         end_factor=0.25, begin=0, end=100),
                    dict(loss='*', type='stop', begin=280),
                ])
        ]

    Types are ``'constant'`` (``factor``), ``'linear'`` and ``'cosine'``
    (``start_factor`` at ``begin`` and before, ``end_factor`` at ``end`` and
    after, both 1 by default), ``'step'`` (``gamma`` at each of
    ``milestones``) and ``'stop'``: from ``begin`` on the loss is not computed,
    and the teacher is not run once all losses are stopped.

    Args:
        schedules (Sequence[dict]): Each with ``loss``, a key of
            ``distiller.distill_losses``, a list of keys or ``'*'`` for all;
            ``type``; ``key``, what changes, ``'loss_weight'`` (default) or
            ``'tau'``, of a wrapper without it that of the losses inside;
            ``by_epoch``, whether steps are epochs (default) or iterations;
            ``begin`` (default 0) and ``end`` (default the end of training),
            in steps counted from 0; and the keys of its type.

    Raises:
        ValueError: If a type or key is not known, or ``begin`` is not before
            ``end``.
    """

    priority = 'LOW'

    #: The config key of a stop's beginning, for messages.
    begin_key = 'begin'

    def __init__(self, schedules: Sequence[dict]) -> None:
        self.schedules = [self._checked(dict(one)) for one in schedules]
        # Each schedule's losses, and the modules that have its value.
        self._targets: list[tuple[list[str], list[nn.Module]]] = []
        # The config's values and mappings, which schedules start from.
        self._values: dict[tuple[nn.Module, str], float] = {}
        self._mappings: dict[str, dict] = {}

    def _checked(self, schedule: dict) -> dict:
        name = type(self).__name__
        missing = [key for key in ('loss', 'type') if key not in schedule]
        if missing:
            raise ValueError(f'{name}: {schedule} has no {missing[0]}.')
        kind = schedule['type']
        if kind != 'stop' and kind not in POLICIES:
            raise ValueError(
                f'{name}: type "{kind}" is not one of '
                f'{", ".join([*POLICIES, "stop"])}.'
            )
        checked: dict[str, Any] = {
            'key': 'loss_weight',
            'by_epoch': True,
            'begin': 0,
            'end': math.inf,
            **schedule,
        }
        if not checked['begin'] < checked['end']:
            raise ValueError(
                f'{name}: begin={checked["begin"]} is not before '
                f'end={checked["end"]} in {schedule}.'
            )
        own = ('loss', 'type', 'key', 'by_epoch', 'begin', 'end')
        options = {k: v for k, v in checked.items() if k not in own}
        if kind == 'stop':
            if options or 'end' in schedule:
                raise ValueError(
                    f'{name}: a stop takes loss, begin and by_epoch, got '
                    f'{schedule}.'
                )
        else:
            if kind in ('linear', 'cosine') and 'end' not in schedule:
                raise ValueError(f'{name}: {schedule} has no end.')
            try:
                POLICIES[kind](0, 0, 1, **options)
            except TypeError as error:
                raise ValueError(f'{name}: {schedule}: {error}') from None
        return checked | {'options': options}

    def weighted_losses(self, distiller: ConfigurableDistiller) -> set[str]:
        """Names of the losses whose weights the schedules change."""
        return {
            name
            for schedule in self.schedules
            if schedule['type'] != 'stop' and schedule['key'] == 'loss_weight'
            for name in find_losses(self, schedule['loss'], distiller)
        }

    def before_train(self, runner: Runner) -> None:
        """Finds what the schedules address.

        Args:
            runner (Runner): The runner.

        Raises:
            TypeError: If the model is not a distillation with a
                ``ConfigurableDistiller``.
            ValueError: If there is no such loss or value, epochs are not
                counted, or distillation would stop where
                ``calculate_student_loss=False`` leaves no other loss.
        """
        name = type(self).__name__
        distiller = find_distiller(self, runner)
        self._mappings = self._mappings or dict(
            distiller.loss_forward_mappings
        )
        by_iteration = isinstance(runner.train_loop, IterBasedTrainLoop)
        self._targets = []
        for schedule in self.schedules:
            if schedule['by_epoch'] and by_iteration:
                raise ValueError(
                    f'{name}: the training loop counts iterations. Set '
                    'by_epoch=False, and begin and end in iterations, in '
                    f'the schedule of {schedule["loss"]}.'
                )
            losses = find_losses(self, schedule['loss'], distiller)
            parts: list[nn.Module] = []
            if schedule['type'] != 'stop':
                key = schedule['key']
                for loss in losses:
                    parts += find_parts(self, loss, key, distiller)
                for part in parts:
                    self._values.setdefault((part, key), getattr(part, key))
            self._targets.append((losses, parts))
        self._refuse_to_stop_all(runner, unwrapped(runner.model))

    def _refuse_to_stop_all(self, runner: Runner, model: Any) -> None:
        """Refuses to stop the only losses that there are."""
        stopped: set[str] = set()
        begins: list[int] = []
        for schedule, (losses, _) in zip(
            self.schedules, self._targets, strict=True
        ):
            by_epoch = schedule['by_epoch']
            last = runner.max_epochs if by_epoch else runner.max_iters
            if schedule['type'] == 'stop' and schedule['begin'] < last:
                stopped.update(losses)
                begins.append(schedule['begin'])
        if begins and stopped >= self._mappings.keys():
            if not hasattr(model, 'distillation_stopped'):
                raise TypeError(
                    f'{type(self).__name__}: {type(model).__name__} cannot '
                    'train without distill losses. Let one go on.'
                )
            refuse_without_student_loss(
                runner, self, self.begin_key, max(begins)
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Sets what changes by epoch."""
        self._apply(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Sets what changes by iteration."""
        if not all(schedule['by_epoch'] for schedule in self.schedules):
            self._apply(runner)

    def _apply(self, runner: Runner) -> None:
        values = dict(self._values)
        stopped: set[str] = set()
        for schedule, (losses, parts) in zip(
            self.schedules, self._targets, strict=True
        ):
            now = runner.epoch if schedule['by_epoch'] else runner.iter
            if schedule['type'] != 'stop':
                policy = POLICIES[schedule['type']]
                factor = policy(
                    now,
                    schedule['begin'],
                    schedule['end'],
                    **schedule['options'],
                )
                for part in parts:
                    values[part, schedule['key']] *= factor
            elif now >= schedule['begin']:
                stopped.update(losses)
        for (part, key), value in values.items():
            setattr(part, key, value)
        self._stop(runner, unwrapped(runner.model), stopped)

    def _stop(self, runner: Runner, model: Any, stopped: set[str]) -> None:
        before = set(model.distiller.loss_forward_mappings)
        model.distiller.loss_forward_mappings = {
            name: mapping
            for name, mapping in self._mappings.items()
            if name not in stopped
        }
        if stopped & before:
            runner.logger.info(
                f'{", ".join(sorted(stopped & before))}: stopped, not '
                'computed any more.'
            )
        if stopped and not model.distiller.loss_forward_mappings:
            if not model.distillation_stopped:
                runner.logger.info('Distillation has been stopped.')
            model.distillation_stopped = True


@HOOKS.register_module()
class DistillationLossDetachHook(DistillScheduleHook):
    """Trains without distill losses from an epoch on.

    The hook that mmyolo's distillation recipe for RTMDet asks for under
    ``mmrazor.DistillationLossDetachHook`` and that no release of mmrazor has:
    RTMDet's last epochs, with weak augmentation, are trained on the task
    alone. An alias of a ``'stop'`` of all losses.

    Args:
        detach_epoch (int): First epoch, counted from 0, without distill
            losses.
    """

    begin_key = 'detach_epoch'

    def __init__(self, detach_epoch: int) -> None:
        super().__init__(
            [{'loss': '*', 'type': 'stop', 'begin': detach_epoch}]
        )


def refuse_without_student_loss(
    runner: Runner, hook: Hook, key: str, epoch: int
) -> None:
    """Refuses a hook that would leave no loss at all.

    Args:
        runner (Runner): The runner.
        hook (Hook): A hook that stops distillation.
        key (str): The hook's config key of when it does.
        epoch (int): That key's value.

    Raises:
        ValueError: If the model has ``calculate_student_loss=False``.
    """
    if not unwrapped(runner.model).calculate_student_loss:
        raise ValueError(
            f'{type(hook).__name__} stops distillation at {key}={epoch}, but '
            'with model.calculate_student_loss=False there is no other loss '
            'to train on. Set model.calculate_student_loss=True, or remove '
            'the hook from custom_hooks.'
        )
