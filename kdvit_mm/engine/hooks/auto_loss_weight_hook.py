"""Keeps the gradients of distill losses in proportion to the task's."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn

from kdvit_mm.compat.patches.intact_records import is_untouched, tensors_of
from kdvit_mm.engine.distill_losses import (
    find_distiller,
    find_losses,
    find_parts,
    obstacle_to_measuring,
)
from kdvit_mm.engine.hooks.distill_schedule_hook import DistillScheduleHook
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.loss_gradients import (
    TASK,
    gradients_of,
    length_of,
    separate_losses,
)
from kdvit_mm.registry import HOOKS

PREFIX = 'train/auto_weight/'
KEY = 'auto_loss_weights'
#: The most measurements in an interval. Each takes a backward pass from the
#: losses to the records.
MEASUREMENTS = 10
#: The least and the most that a weight is multiplied by at once.
LEAST, MOST = 0.1, 10.0


def odds_ratio(share: float, ratio: float, band: float) -> float:
    """What a weight is multiplied by to bring a share into the band.

    Args:
        share (float): The share of the loss's gradient, between 0 and 1.
        ratio (float): Middle of the band.
        band (float): Half of its width.

    Returns:
        float: 1 inside the band; else the odds of its far edge over those of
        the share, within ``LEAST`` and ``MOST``.
    """
    low, high = ratio - band, ratio + band
    if low <= share <= high:
        return 1.0
    target = high if share < low else low
    factor = target * (1 - share) / (share * (1 - target))
    return min(max(factor, LEAST), MOST)


@HOOKS.register_module()
class AutoLossWeightHook(Hook):
    r"""Finds the weights of distill losses by the length of their gradients.

    With :math:`d` the norm of a loss's gradient and :math:`t` that of the
    task loss's, both at what the loss reads of the student (the records,
    before connectors), :math:`p = d / (d + t)` is the loss's share. It is
    measured up to ten times per interval. Where its mean lies outside of
    ``ratio`` ± ``band``, the loss's weight is multiplied by

    .. math:: r = \frac{p^* (1 - p)}{p (1 - p^*)},

    within 0.1 and 10, :math:`p^*` being the far edge of the band. As the
    odds of p are proportional to the weight, one move is enough where the
    features stay the same.

    This is the gradient-guided adaptive modulation of Liao et al., *RT-DETRv4:
    Painlessly Furthering Real-Time Object Detection with Vision Foundation
    Models*, arXiv:2510.25257, https://github.com/RT-DETRs/RT-DETRv4. There the
    share is that of one part's gradient, of all losses together, in the
    network's; here it is that of the loss itself. A weight whose share is not
    known stays, where theirs is set to a default. All ranks move alike: shares
    are means over their batches.

    The weight starts from the config's. Weights and what was measured since
    the last move are in checkpoints; both are in the log as
    ``auto_weight/NAME`` and ``auto_weight/share_NAME``, without ``loss_``.
    Works with gradient accumulation, mixed precision and
    DistributedDataParallel. ::

        custom_hooks = [
            *_base_.custom_hooks,
            dict(type='kdvit_mm.AutoLossWeightHook', ratio=0.5, band=0.1),
        ]

    Args:
        ratio (float): The share to keep, between 0 and 1: at 0.5 both
            gradients are equally long. Defaults to 0.5.
        band (float): How far the share may be from ``ratio``. Defaults to
            0.1.
        interval (int | None): Iterations between moves. Defaults to None, an
            epoch.
        losses (str | Sequence[str]): Keys of ``distiller.distill_losses``,
            or ``'*'`` for all. Defaults to ``'*'``.
        max_factor (float): The most that a weight is multiplied or divided by
            in the whole training. Defaults to 1000.

    Raises:
        ValueError: If the band is not within 0 and 1, ``interval`` or
            ``max_factor`` is below 1; or before training if a weight cannot
            be found so, or is changed by another hook, too.
    """

    priority = 'LOW'

    def __init__(
        self,
        ratio: float = 0.5,
        band: float = 0.1,
        interval: int | None = None,
        losses: str | Sequence[str] = '*',
        max_factor: float = 1000.0,
    ) -> None:
        if not (band > 0 and band < ratio < 1 - band):
            raise ValueError(
                f'AutoLossWeightHook: ratio={ratio} and band={band} have to '
                'span shares above 0 and below 1, such as 0.5 and 0.1.'
            )
        if max_factor < 1 or (interval is not None and interval < 1):
            raise ValueError(
                f'AutoLossWeightHook: interval={interval} and '
                f'max_factor={max_factor} must not be below 1.'
            )
        self.ratio = ratio
        self.band = band
        self.interval = interval
        self.losses = losses
        self.max_factor = max_factor
        # The config's weights.
        self._values: dict[nn.Module, float] = {}
        self._state: dict[str, dict[str, float]] = {}

    def weighted_losses(self, distiller: ConfigurableDistiller) -> set[str]:
        """Names of the losses whose weights the hook sets."""
        return {
            name
            for name in find_losses(self, self.losses, distiller)
            # mmengine learns only from what is called a loss.
            if 'loss' in name
        }

    def before_train(self, runner: Runner) -> None:
        """Finds the losses, and takes back what a checkpoint holds.

        Args:
            runner (Runner): The runner.

        Raises:
            TypeError: If the model is not a distillation with a
                ``ConfigurableDistiller``.
            ValueError: If a weight cannot be found by gradients, or another
                hook changes it, too.
        """
        self._runner = runner
        self._model = unwrapped(runner.model)
        self._distiller = find_distiller(self, runner)
        self._names = sorted(self.weighted_losses(self._distiller))
        self._parts = {
            name: find_parts(self, name, 'loss_weight', self._distiller)
            for name in self._names
        }
        for part in (p for parts in self._parts.values() for p in parts):
            self._values.setdefault(part, part.loss_weight)
        self._refuse(runner)
        self._length = self._find_length(runner)
        self._factors = dict.fromkeys(self._names, 1.0)
        # Per loss, the sum of the shares since the last move, and how many.
        self._sums = torch.zeros(len(self._names), 2, dtype=torch.float64)
        self._warned: set[str] = set()
        for index, name in enumerate(self._names):
            if name in self._state:
                state = self._state[name]
                self._factors[name] = state['factor']
                self._sums[index] = torch.tensor(
                    [state['shares'], state['count']]
                )
            self._set_weight(name)

    def _refuse(self, runner: Runner) -> None:
        """Refuses what cannot work.

        Raises:
            ValueError: If there is such a thing.
        """
        start = type(self).__name__
        obstacle = obstacle_to_measuring(
            runner.model, [*self._distiller.distill_losses.values()]
        )
        if obstacle:
            raise ValueError(
                f'{start} cannot measure gradients: {obstacle}. Remove it '
                'from custom_hooks.'
            )
        if not getattr(self._model, 'calculate_student_loss', True):
            raise ValueError(
                f'{start} compares the gradients of distill losses with the '
                "task's, but with model.calculate_student_loss=False there "
                'is no task loss. Remove the hook from custom_hooks.'
            )
        for name, parts in self._parts.items():
            if not all(self._values[part] for part in parts):
                raise ValueError(
                    f'{start}: the weight of {name} is 0, from which it '
                    'cannot be moved. Set '
                    f'model.distiller.distill_losses.{name}.loss_weight to a '
                    "number above 0, such as the paper's, or leave it out of "
                    'losses.'
                )
        for hook in runner.hooks:
            if hook is self or not isinstance(
                hook, (DistillScheduleHook, AutoLossWeightHook)
            ):
                continue
            both = hook.weighted_losses(self._distiller) & set(self._names)
            if both:
                raise ValueError(
                    f'{start} and {type(hook).__name__} both set the weight '
                    f'of {", ".join(sorted(both))}. Name in losses of '
                    f'{start} only what nothing else changes.'
                )

    def _find_length(self, runner: Runner) -> int:
        """Iterations of an interval.

        Raises:
            ValueError: If it is to be an epoch and there are none.
        """
        if self.interval is not None:
            return self.interval
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                f'{type(self).__name__}: the training loop counts iterations. '
                'Set interval to the iterations between moves.'
            )
        return len(runner.train_dataloader)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Has the gradients measured where it is time for it."""
        stride = -(-self._length // MEASUREMENTS)
        self._measures = runner.iter % self._length % stride == 0
        self._shares: dict[str, float] = {}
        if self._measures:
            self._handle = self._model.register_forward_hook(self._measure)

    def _measure(self, model: nn.Module, inputs: Any, losses: Any) -> None:
        if not isinstance(losses, Mapping):
            return
        self._handle.remove()
        terms = separate_losses(
            losses, {f'distill.{name}' for name in self._names}
        )
        scaler = getattr(self._runner.optim_wrapper, 'loss_scaler', None)
        places = {
            name: self._places(name)
            for name in self._names
            if f'distill.{name}' in terms
        }
        try:
            task = gradients_of(
                terms[TASK], [*chain(*places.values())], scaler
            )
            for name, features in places.items():
                own = gradients_of(terms[f'distill.{name}'], features, scaler)
                d, t = length_of(own), length_of(task[: len(features)])
                del task[: len(features)]
                # Infinite where the loss scale is too large for a step.
                if d and t and math.isfinite(d + t):
                    self._shares[name] = d / (d + t)
        except RuntimeError as error:
            raise RuntimeError(
                f'{type(self).__name__} cannot measure gradients: '
                f'{str(error).splitlines()[0].rstrip(".")}. Remove it from '
                'custom_hooks.'
            ) from error

    def _places(self, name: str) -> list[torch.Tensor]:
        """What a loss reads of the student, as both losses depend on it.

        Raises:
            ValueError: If the network did not go on with what was recorded.
        """
        places: dict[int, torch.Tensor] = {}
        recorders = self._distiller.student_recorders
        for mapping in self._distiller.loss_forward_mappings[name].values():
            if not mapping.get('from_student'):
                continue
            recorder = recorders.get_recorder(mapping['recorder'])
            record = recorder.get_record_data(
                mapping.get('record_idx', 0), mapping.get('data_idx')
            )
            found = [x for x in tensors_of(record) if x.requires_grad]
            if found and not is_untouched(recorder):
                raise ValueError(
                    f'{type(self).__name__}: what {name} reads of '
                    f'"{recorder.source}" is overwritten in place afterwards, '
                    "so that the task's gradient at it is not known. Leave "
                    f'{name} out of losses, or record another module in '
                    f'student_recorders.{mapping["recorder"]}.'
                )
            for tensor in found:
                # A recorder may keep a view, and the network another one.
                base = tensor._base
                place = tensor if base is None else base
                places[id(place)] = place
        return [*places.values()]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Collects the shares of all ranks; moves weights after an interval.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the batch in its epoch.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict | None): The losses. Defaults to None.
        """
        if self._measures:
            found = torch.zeros_like(self._sums)
            for index, name in enumerate(self._names):
                if name in self._shares:
                    found[index] = torch.tensor([self._shares[name], 1.0])
            all_reduce(found)
            self._sums += found
            for name, (share, count) in zip(
                self._names, found.tolist(), strict=True
            ):
                if count:
                    self._log(f'share_{_short(name)}', share / count)
        if (runner.iter + 1) % self._length == 0:
            for name, (share, count) in zip(
                self._names, self._sums.tolist(), strict=True
            ):
                if count:
                    self._move(name, share / count)
                elif name in self._distiller.loss_forward_mappings:
                    self._warn(
                        name,
                        'stays: the gradient of the loss, or of the task, '
                        'does not reach what the loss reads of the student',
                    )
            self._sums.zero_()
        for name in self._names:
            self._log(_short(name), self._parts[name][0].loss_weight)

    def _move(self, name: str, share: float) -> None:
        factor = odds_ratio(share, self.ratio, self.band)
        if factor == 1:
            return
        before = self._factors[name]
        most = self.max_factor
        self._factors[name] = min(max(before * factor, 1 / most), most)
        if self._factors[name] != before * factor:
            self._warn(
                name,
                f'is at {self._factors[name]:.3g} times that of the config, '
                f'which max_factor={most:g} allows no more of, though its '
                f'share is {share:.3g}',
            )
        self._set_weight(name)
        self._runner.logger.info(
            f'{name} has {share:.3g} of the gradients at what it reads of the '
            f'student: loss_weight {self._parts[name][0].loss_weight:.4g}'
        )

    def _set_weight(self, name: str) -> None:
        for part in self._parts[name]:
            part.loss_weight = self._values[part] * self._factors[name]

    def _warn(self, name: str, why: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._runner.logger.warning(
                f'{type(self).__name__}: the weight of {name} {why}.'
            )

    def _log(self, name: str, value: float) -> None:
        self._runner.message_hub.update_scalar(f'{PREFIX}{name}', value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds what a resumed run goes on with.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint to be saved.
        """
        state = checkpoint.setdefault(KEY, {})
        for name, (shares, count) in zip(
            self._names, self._sums.tolist(), strict=True
        ):
            state[name] = {
                'factor': self._factors[name],
                'shares': shares,
                'count': count,
            }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes the weights of a run that is resumed.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint that was loaded.
        """
        if runner._resume:
            self._state = checkpoint.get(KEY, {})


def _short(name: str) -> str:
    """A loss's name in the log, which averages over what has "loss" in it."""
    return name.removeprefix('loss_')
