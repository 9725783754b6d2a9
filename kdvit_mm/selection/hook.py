"""Trains the selector of pyramid levels."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.registry import HOOKS
from kdvit_mm.selection.controller import Phase, find_controller
from kdvit_mm.selection.plan import Outcome, Plan
from kdvit_mm.selection.probes import choice_regrets, image_losses
from kdvit_mm.selection.rewards import Measure

PREFIX = 'train/levels/'


@HOOKS.register_module()
class LevelSelectionHook(Hook):
    """Phases, rewards, updates, probes and records of a level selection.

    Goes with :class:`SelectedLevelsLoss`. After each
    iteration the selector is told what its choice was worth; every
    ``update_interval`` iterations it learns. Three phases follow each other:
    in the warm-up all levels are distilled and nothing is learned; then the
    selector learns from its choices while all levels are still distilled;
    last, its choices are applied.

    Every ``probe_interval`` iterations all levels of the batch are evaluated,
    and the regret of the selector against the best set of each image is
    logged beside that of all levels, of the best fixed set and of random ones
    of equal cost, as ``levels/regret_*``; likewise of held-out images, as
    ``levels/held_out_regret_*``. Nothing was learned from the batch before.

    Args:
        warmup (int): Length of the warm-up. Defaults to 0.
        policy (int): Length of the second phase. Defaults to 0.
        by_epoch (bool): Whether lengths are epochs, else iterations. Defaults
            to True.
        update_interval (int): Iterations between updates. Defaults to 32.
        probe_interval (int): Iterations between probes, 0 for none. Defaults
            to 0.
        probe_dataloader (dict | None): Data loader of held-out images with
            ground truth, which are probed, too. Defaults to None.
        dump (bool): Whether each decision is written to ``levels.jsonl`` in
            the work directory. Defaults to False.

    Raises:
        ValueError: If a length or interval is below 0, or the reward needs
            probes and there are none.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        warmup: int = 0,
        policy: int = 0,
        by_epoch: bool = True,
        update_interval: int = 32,
        probe_interval: int = 0,
        probe_dataloader: dict | None = None,
        dump: bool = False,
    ) -> None:
        numbers = {
            'warmup': warmup,
            'policy': policy,
            'probe_interval': probe_interval,
            'update_interval': update_interval - 1,
        }
        wrong = [name for name, number in numbers.items() if number < 0]
        if wrong:
            raise ValueError(
                f'LevelSelectionHook: {" and ".join(wrong)} must not be '
                'below 0 (update_interval: 1).'
            )
        self.warmup = warmup
        self.policy = policy
        self.by_epoch = by_epoch
        self.update_interval = update_interval
        self.probe_interval = probe_interval
        self.probe_dataloader = probe_dataloader
        self.dump = dump
        self._held_out: DataLoader | None = None

    def before_run(self, runner: Runner) -> None:
        """Finds the controller and takes its selector from the optimiser.

        Args:
            runner (Runner): The runner.
        """
        self.algorithm = unwrapped(runner.model)
        self.controller = find_controller(self.algorithm)
        self.controller.prepare(
            # In a test the optimiser is still a config.
            getattr(runner.optim_wrapper, 'param_groups', ()),
            has_probes=self.probe_interval > 0,
            records=self.dump,
        )
        if self.probe_dataloader is not None:
            self._held_out = runner.build_dataloader(self.probe_dataloader)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Begins a step in its phase."""
        now = runner.epoch if self.by_epoch else runner.iter
        ends = self.warmup, self.warmup + self.policy
        phase = list(Phase)[sum(now >= end for end in ends)]
        self._measure: Measure | None = None
        if self.probe_interval and runner.iter % self.probe_interval == 0:
            self._measure = partial(image_losses, self.algorithm, data_batch)
        self.controller.before_step(phase, self._measure)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Probes, rewards, learns and records."""
        if self._measure is not None:
            self._log(runner, choice_regrets(self.algorithm, data_batch))
            if self._held_out is not None:
                batch = self._probe_batch(runner, self._held_out)
                found = choice_regrets(self.algorithm, batch)
                self._log(runner, found, 'held_out_')
        done = self.controller.after_step(self._measure)
        if done is None:
            return
        if self.every_n_train_iters(runner, self.update_interval):
            self._log(runner, self.controller.learn())
        self._log(runner, self.controller.facts(done[1]))
        if self.dump and is_main_process():
            self._write(runner, *done)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the selector's buffer and optimiser.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint to be saved.
        """
        checkpoint['level_selection'] = self.controller.extra_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes back the selector's buffer and optimiser in a resumed run.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint that was loaded.
        """
        if runner._resume and 'level_selection' in checkpoint:
            self.controller.load_extra_state(checkpoint['level_selection'])

    def _log(
        self, runner: Runner, facts: dict[str, float], of: str = ''
    ) -> None:
        for name, value in facts.items():
            runner.message_hub.update_scalar(f'{PREFIX}{of}{name}', value)

    def _probe_batch(self, runner: Runner, loader: DataLoader) -> Any:
        # Found from the iteration alone, that a resumed run finds the same.
        number = runner.iter // self.probe_interval
        number = number * get_world_size() + get_rank()
        first = number * loader.batch_size
        dataset: Any = loader.dataset
        with isolated_rng(first):
            images = [
                dataset[i % len(dataset)]
                for i in range(first, first + loader.batch_size)
            ]
        return loader.collate_fn(images)

    def _write(self, runner: Runner, plan: Plan, outcome: Outcome) -> None:
        file = Path(runner.work_dir, 'levels.jsonl')
        samples = outcome.state.samples or [None] * len(plan.levels)
        with file.open('a') as lines:
            for n, sample in enumerate(samples):
                line = {
                    'iter': runner.iter,
                    **_describe_image(sample),
                    'levels': plan.levels[n].int().tolist(),
                    'applied': outcome.mask[n].int().tolist(),
                    'probabilities': _rounded(plan.probabilities[n]),
                    'quality': _rounded(outcome.quality[n]),
                    'cost': round(float(plan.cost[n]), 5),
                }
                lines.write(json.dumps(line) + '\n')


def _rounded(values: torch.Tensor) -> list[float | None]:
    return [
        float(f'{value:.4g}') if value == value else None
        for value in values.tolist()
    ]


def _describe_image(sample: Any) -> dict[str, Any]:
    """Id, and number and mean size of the objects, of a sample."""
    if sample is None:
        return {}
    described: dict[str, Any] = {'image': sample.metainfo.get('img_id')}
    boxes = getattr(getattr(sample, 'gt_instances', None), 'bboxes', None)
    if isinstance(boxes, torch.Tensor):
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
        sizes: Sequence[float] = sides.prod(1).sqrt().tolist()
        described['sizes'] = [round(size, 1) for size in sizes]
    return described
