"""Trains a few steps of a config, at all the times at which a run may fail."""

import copy
import inspect
import math
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from kdvit_mm.analysis.configs import ConfigError, explained, loading

# Steps at the start, and epochs in the middle at which hooks switch something
# that are looked at.
STEPS, SWITCHES = 3, 5
# Keys of hooks that make them write outside of the work directory.
WRITES = ('out_dir', 'test_out_dir', 'on_trace_ready', 'json_trace_path')
# What the runner asks for, to go on examining a config that lacks it.
STAND_INS = {
    'train_cfg': {'by_epoch': True, 'max_epochs': 1},
    'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.0}},
}
HOOK_ADVICE = '\nCorrect or drop it in custom_hooks or default_hooks.'


class StepError(ConfigError):
    """A training step fails, rather than what is around it."""


class Rehearsal(Runner):
    """A runner that trains the first steps and those that follow a switch.

    It goes the way of :meth:`Runner.train`: builds the optimiser, the
    schedulers and the validation, calls the hooks, loads checkpoints. Of every
    epoch it calls the hooks' ``before_train_epoch``; it trains in the first
    one, after hooks switched something, and in the last one. It does not
    validate.

    Attributes:
        problems (list[str]): What is wrong but does not end the rehearsal.
    """

    _hooks: list[Any]

    def __init__(self, **kwargs: Any) -> None:
        self.problems: list[str] = []
        self._called_hooks: list[Any] = []
        super().__init__(**kwargs)

    def _log_env(self, env_cfg: dict) -> None:
        """Collecting the environment takes seconds, and is not shown."""

    def dump_config(self) -> None:
        """Nothing is written."""

    def register_hook(self, hook: Any, priority: Any = None) -> None:
        """Registers a hook, or notes why it cannot be built."""
        name = hook.get('type') if isinstance(hook, dict) else hook
        try:
            with explained(f'Hook {_name(name)} cannot be built', HOOK_ADVICE):
                super().register_hook(hook, priority)
        except ConfigError as error:
            self.problems += error.args

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Builds the loop, or says that ``train_cfg`` is wrong."""
        with explained('train_cfg is wrong'):
            return super().build_train_loop(loop)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Builds the optimiser, or says that ``optim_wrapper`` is wrong."""
        with explained('optim_wrapper cannot be built'):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Builds schedulers, or says that ``param_scheduler`` is wrong."""
        with explained('param_scheduler cannot be built'):
            return super().build_param_scheduler(scheduler)

    def build_val_loop(self, loop: Any) -> BaseLoop:
        """Builds the loop, or says that validation is configured wrongly."""
        with explained(
            'The validation cannot be built',
            '\nCheck val_cfg, val_dataloader and val_evaluator.',
        ):
            return super().build_val_loop(loop)

    def load_or_resume(self) -> None:
        """Loads ``load_from``, or says why it cannot be."""
        with explained(f'load_from "{self._load_from}" cannot be loaded'):
            super().load_or_resume()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Calls all hooks, and says of each one that fails which it was.

        Raises:
            ConfigError: If some fail.
            StepError: After a step whose losses are not finite.
        """
        failures: list[str] = []
        # A hook may call the others, as the one that saves checkpoints does.
        outer = self._hooks
        try:
            # First without any: is the model refused as a whole?
            self._hooks = []
            with explained('Training is refused'):
                super().call_hook(fn_name, **kwargs)
            for hook in self._called_hooks:
                self._hooks = [hook]
                try:
                    with explained(
                        f'{type(hook).__name__}.{fn_name} fails{self._when()}',
                        HOOK_ADVICE,
                    ):
                        super().call_hook(fn_name, **kwargs)
                except ConfigError as error:
                    failures += error.args
        finally:
            self._hooks = outer
        if failures:
            raise ConfigError(*failures)
        if fn_name == 'after_train_iter':
            self._check_finite(kwargs.get('outputs') or {})

    def rehearse(self) -> None:
        """Trains, in short.

        Raises:
            StepError: If a training step fails.
            ConfigError: If anything else fails.
        """
        self._called_hooks = [*self._hooks]
        self._has_loaded = False
        loop = self.train_loop
        loop.run = partial(self._run, loop)
        with explained('Training cannot start', locate=True):
            self.train()

    def _run(self, loop: Any) -> nn.Module:
        self.call_hook('before_train')
        if isinstance(loop, EpochBasedTrainLoop):
            self._run_epochs(loop)
        else:
            # The whole training is one epoch.
            self.call_hook('before_train_epoch')
            self._train_steps(loop, min(STEPS, loop.max_iters))
            if loop.iter < loop.max_iters:
                loop._iter = loop.max_iters - 1
                self._train_steps(loop, 1)
            self.call_hook('after_train_epoch')
        self.call_hook('after_train')
        return self.model

    def _run_epochs(self, loop: Any) -> None:
        switches = 0
        modes = self._modes()
        for epoch in range(loop.max_epochs):
            loop._epoch, loop._iter = epoch, epoch * len(loop.dataloader)
            self.call_hook('before_train_epoch')
            before, modes = modes, self._modes()
            switched = len(before) != len(modes) or any(
                a is not b for a, b in zip(before, modes, strict=True)
            )
            switches += bool(epoch and switched)
            if epoch == 0:
                self._train_steps(loop, STEPS)
            elif epoch == loop.max_epochs - 1 or (
                switched and switches <= SWITCHES
            ):
                self._train_steps(loop, 1)
            else:
                continue
            self.call_hook('after_train_epoch')
            modes = self._modes()

    def _modes(self) -> list[Any]:
        """All that a hook may have set to switch something.

        These are flags of the hooks, attributes of the model's modules and of
        the data sets: a head's ``use_l1``, ``distillation_stopped``, the
        pipeline, the batch augmentation.
        """
        flags = [
            value
            for hook in self._called_hooks
            for value in vars(hook).values()
            if isinstance(value, bool)
        ]
        things = [
            *self.model.modules(),
            *_datasets(self.train_dataloader.dataset),
        ]
        return flags + [v for thing in things for v in vars(thing).values()]

    def _train_steps(self, loop: Any, number: int) -> None:
        self.model.train()
        with loading(self._when()):
            batches = list(islice(loop.dataloader, number))
        for index, batch in enumerate(batches):
            place = (index,) if isinstance(loop, EpochBasedTrainLoop) else ()
            with explained(
                f'The training step fails{self._when()}',
                locate=True,
                kind=StepError,
            ):
                loop.run_iter(*place, batch)

    def _check_finite(self, outputs: dict[str, Any]) -> None:
        for name, output in outputs.items():
            value = float(torch.as_tensor(output).detach())
            if 'loss' in name and not math.isfinite(value):
                raise StepError(
                    f'{name} is not finite{self._when()}: {value:.4g}. '
                    'Look at the learning rate, the weights of the losses and '
                    'the ground truth.'
                )

    def _when(self) -> str:
        loop = self._train_loop
        if not isinstance(loop, BaseLoop) or not loop.iter:
            return ''
        if isinstance(loop, EpochBasedTrainLoop):
            if not loop.epoch:
                return f' in step {loop.iter + 1}'
            return f' in epoch {loop.epoch + 1} of {loop.max_epochs}'
        return f' in iteration {loop.iter + 1} of {loop.max_iters}'


def _name(kind: Any) -> str:
    return getattr(kind, '__name__', str(kind))


def _datasets(dataset: Any) -> Iterator[Any]:
    """A data set and those that it wraps."""
    yield dataset
    inner = [getattr(dataset, 'dataset', None)]
    for wrapped in [*inner, *getattr(dataset, 'datasets', ())]:
        if wrapped is not None:
            yield from _datasets(wrapped)


@contextmanager
def rehearsing(
    cfg: Config, model: nn.Module, loader: DataLoader, device: str | None
) -> Iterator[Rehearsal]:
    """Makes a runner that leaves nothing behind.

    Inside, the message hub holds what it holds at the start of training.

    Args:
        cfg (Config): The config.
        model (nn.Module): Its model.
        loader (DataLoader): Its ``train_dataloader``.
        device (str | None): Where to run; None for where training would.

    Yields:
        Rehearsal: The runner.

    Raises:
        ConfigError: If the runner cannot be built.
    """
    name = f'rehearsal_{uuid.uuid4().hex}'
    deterministic = torch.are_deterministic_algorithms_enabled()
    kept = [DefaultScope, MessageHub, MMLogger]
    with tempfile.TemporaryDirectory() as folder:
        try:
            keys, problems = _runner_keys(cfg, name, folder)
            with explained('The runner cannot be built'):
                runner = Rehearsal(
                    **keys, model=model, train_dataloader=loader
                )
            kept.append(type(runner.visualizer))
            runner.problems += problems
            if device is not None:
                with explained(f'Nothing runs on device "{device}"'):
                    runner.model.to(device)
            RuntimeInfoHook().before_train(runner)
            yield runner
        finally:
            torch.use_deterministic_algorithms(deterministic)
            for kind in kept:
                for known in [*kind._instance_dict]:
                    if known.startswith(name):
                        made = kind._instance_dict.pop(known)
                        for handler in getattr(made, 'handlers', ()):
                            handler.close()


def _runner_keys(
    cfg: Config, name: str, folder: str
) -> tuple[dict[str, Any], list[str]]:
    """Arguments of the runner, and which keys the config lacks."""
    cfg = copy.deepcopy(cfg)
    problems = [
        f'The config has no key "{key}".'
        for key in STAND_INS
        if not cfg.get(key)
    ]
    for key, value in STAND_INS.items():
        if not cfg.get(key):
            cfg[key] = value
    cfg.work_dir, cfg.experiment_name = folder, name
    cfg.log_level, cfg.launcher, cfg.resume = 'ERROR', 'none', False
    if not cfg.get('visualizer'):
        cfg.visualizer = {'type': 'Visualizer'}
    cfg.visualizer.update(name=name, save_dir=folder, vis_backends=[])
    hooks = [
        *(cfg.get('default_hooks') or {}).values(),
        *(cfg.get('custom_hooks') or []),
    ]
    for hook in hooks:
        if isinstance(hook, dict):
            for key in WRITES:
                hook.pop(key, None)
            # PreciseBNHook runs thousands of images at the end of an epoch.
            if 'PreciseBN' in _name(hook.get('type')):
                hook['num_samples'] = cfg.train_dataloader.batch_size
    if 'accumulative_counts' in cfg.optim_wrapper:
        cfg.optim_wrapper.accumulative_counts = 1
    names = inspect.signature(Runner).parameters
    built = ('model', 'train_dataloader')
    keys = {key: cfg[key] for key in names if key in cfg and key not in built}
    return keys | {'cfg': cfg}, problems
