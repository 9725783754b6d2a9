"""Warns during training of distill losses that do nothing or too much."""

import math
from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn

from kdvit_mm.engine.distill_losses import obstacle_to_measuring
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.loss_gradients import (
    TASK,
    gradients_of,
    length_of,
    separate_losses,
)
from kdvit_mm.models.utils.students import students_of
from kdvit_mm.registry import HOOKS

#: Iterations over which a loss must change.
WINDOW = 50
#: Gradients are measured at these iterations and then, since it takes a
#: backward pass per loss, every so many iterations for each of them.
FIRST_PROBES = (0, 5, 10)
PROBE_INTERVAL = 100
#: Multiple of the task's gradient that is too much.
TOO_LARGE = 100.0


@HOOKS.register_module()
class DistillWatchHook(Hook):
    """Warns once when a distill loss does nothing or dominates the task.

    It warns when a loss

    - is exactly 0, or constant, for 50 iterations;
    - has a gradient that does not reach the student, three times in a row;
    - has a gradient at the student that is more than 100 times as long as
      the task's, in the median over an epoch.

    A loss whose weight is 0 is left alone. Training stays the same bit for
    bit: gradients are taken from the graph of the iteration itself. They are
    measured at three iterations at the start and then rarely enough to cost
    less than 1 % of the time; not where a measurement would interfere
    (``SelectedLevelsLoss``, synchronised batch norm on several processes,
    model wrappers other than DDP) or fails, as with reentrant activation
    checkpointing. The log then says so. Plain models are not watched.
    """

    priority = 'LOW'

    def before_train(self, runner: Runner) -> None:
        """Finds what there is to watch."""
        self._runner = runner
        self._model = unwrapped(runner.model)
        distiller = getattr(self._model, 'distiller', None)
        self._losses: dict[str, nn.Module] = {}
        if isinstance(distiller, ConfigurableDistiller):
            # mmengine learns only from what is called a loss.
            self._losses = {
                f'distill.{key}': loss
                for key, loss in distiller.distill_losses.items()
                if 'loss' in key
            }
        self._values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._misses: dict[str, int] = defaultdict(int)
        self._ratios: dict[str, list[float]] = defaultdict(list)
        self._warned: set[str] = set()
        self._iteration = self._epoch_start = 0
        obstacle = self._obstacle() if self._losses else None
        self._probes = bool(self._losses) and obstacle is None
        if obstacle:
            self._leave_out_gradients(obstacle)

    def _obstacle(self) -> str | None:
        """What a measurement of gradients would interfere with."""
        obstacle = obstacle_to_measuring(
            self._runner.model, [*self._losses.values()]
        )
        if obstacle is not None:
            return obstacle
        # torch's and mmcv's have the same name.
        if get_world_size() > 1 and any(
            type(module).__name__ == 'SyncBatchNorm'
            for module in self._model.modules()
        ):
            return 'synchronised batch norms exchange theirs'
        return None

    def _leave_out_gradients(self, why: str) -> None:
        self._probes = False
        self._runner.logger.info(
            'DistillWatchHook watches the values of the distill losses, but '
            f'not their gradients: {why}.'
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Has the gradients measured where it is time for it."""
        interval = PROBE_INTERVAL * (1 + len(self._losses))
        if self._probes and (
            self._iteration in FIRST_PROBES or self._iteration % interval == 0
        ):
            self._handle = self._model.register_forward_hook(self._probe)

    def _probe(self, model: nn.Module, inputs: Any, losses: Any) -> None:
        if not isinstance(losses, Mapping):
            return
        self._handle.remove()
        try:
            norms = self._measure(losses)
        except RuntimeError as error:
            # Memory may be short too; training goes on without.
            self._leave_out_gradients(str(error).splitlines()[0].rstrip('.'))
            return
        if not all(map(math.isfinite, norms.values())):
            # It may diverge: a reason to say now what is known.
            self._judge_ratios(at_least=1)
            return
        task = norms.pop(TASK, 0.0)
        for name, norm in norms.items():
            if _is_off(self._losses[name]):
                continue
            self._misses[name] = 0 if norm else self._misses[name] + 1
            if self._misses[name] == len(FIRST_PROBES):
                self._warn_of_nothing(
                    name, 'has a gradient that does not reach the student'
                )
            if task:
                self._ratios[name].append(norm / task)
        if self._iteration - self._epoch_start + 1 >= self._epoch_length():
            self._judge_ratios(at_least=len(FIRST_PROBES))

    def _measure(self, losses: Mapping[str, Any]) -> dict[str, float]:
        """Gradient norms at the student's parameters by loss."""
        weights = [
            parameter
            for student in students_of(self._model).values()
            for parameter in student.parameters()
            if parameter.requires_grad
        ]
        scaler = getattr(self._runner.optim_wrapper, 'loss_scaler', None)
        return {
            name: length_of(gradients_of(loss, weights, scaler))
            for name, loss in separate_losses(losses, self._losses).items()
        }

    def _judge_ratios(self, at_least: int) -> None:
        """Looks at the ratios of the last epoch if there are enough."""
        if min(map(len, self._ratios.values()), default=0) < at_least:
            return
        for name, ratios in self._ratios.items():
            if median(ratios) > TOO_LARGE:
                self._warn_of_too_much(name, ratios)
        self._ratios.clear()
        self._epoch_start = self._iteration + 1

    def _epoch_length(self) -> int:
        try:
            return len(self._runner.train_dataloader)
        except TypeError:  # the data set has no length
            return 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Collects values, which are looked at every 50 iterations."""
        self._iteration += 1
        outputs = outputs or {}
        for name in self._losses:
            if name not in outputs:
                continue
            values = self._values[name]
            values.append(outputs[name].detach())
            if len(values) == WINDOW:
                self._judge_values(name, torch.stack(values).tolist())
                values.clear()

    def after_train(self, runner: Runner) -> None:
        """Judges what is left, of runs shorter than the probes' interval."""
        if self._iteration - self._epoch_start >= self._epoch_length():
            self._judge_ratios(at_least=1)

    def _judge_values(self, name: str, values: list[float]) -> None:
        if len(set(values)) == 1 and not _is_off(self._losses[name]):
            what = f'{values[0]:.4g}' if values[0] else 'exactly 0'
            self._warn_of_nothing(
                name, f'has been {what} for {WINDOW} iterations'
            )

    def _warn_of_nothing(self, name: str, why: str) -> None:
        key = name.removeprefix('distill.')
        self._warn(
            name,
            f'{name} {why}: it teaches nothing. Its map may be 1x1, its '
            'record detached or of a frozen module, or preds_S mapped to the '
            'teacher. Map another record in '
            f'model.distiller.loss_forward_mappings.{key}, or drop '
            f'model.distiller.distill_losses.{key}.',
        )

    def _warn_of_too_much(self, name: str, ratios: list[float]) -> None:
        where = 'model.distiller.distill_losses.'
        where += name.removeprefix('distill.')
        ratio = median(ratios)
        weight = getattr(self._losses[name], 'loss_weight', None)
        advice = f'Lower the weights of {where}.'
        if weight:
            advice = (
                f'Lower {where}.loss_weight: at {weight / ratio:.2g} both are '
                'equally long.'
            )
        self._warn(
            name,
            f'{name} dominates the task: its gradient at the student is '
            f"{ratio:.3g} times as long as the task loss's (median of "
            f'{len(ratios)} measurements). {advice}',
        )

    def _warn(self, name: str, message: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._runner.logger.warning(message)


def _is_off(loss: nn.Module) -> bool:
    """Whether a loss is 0 because its weights are, or those of its parts."""
    weights = {
        name: value
        for name, value in vars(loss).items()
        if isinstance(value, (int, float))
        and name.endswith(('weight', '_fgd', '_mgd'))
    }
    if weights:
        return weights.get('loss_weight') == 0 or not any(weights.values())
    return any(_is_off(part) for part in loss.children())
