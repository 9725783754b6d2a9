"""Trains the selector of pyramid levels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from kdvit_mm.models.losses.wrappers.selected_levels import (
    Decision,
    SelectedLevelsLoss,
)
from kdvit_mm.models.selectors.benefits import (
    find_selected_loss,
    image_losses,
    level_benefits,
    regrets,
    undisturbed,
)
from kdvit_mm.models.selectors.memory import image_keys
from kdvit_mm.models.selectors.quality import (
    InfluenceQuality,
    MeasuredQuality,
    total_of,
)
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.registry import HOOKS

PREFIX = 'train/levels/'


@HOOKS.register_module()
class LevelSelectionHook(Hook):
    """Phases, rewards, updates, probes and records of a level selection.

    Goes with :class:`~kdvit_mm.models.losses.SelectedLevelsLoss`. After each
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
        ValueError: If a length or interval is below 0, or the quality needs
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
        """Finds the loss and takes its selector from the optimiser.

        Args:
            runner (Runner): The runner.
        """
        self.algorithm = unwrapped(runner.model)
        self.loss: SelectedLevelsLoss = find_selected_loss(self.algorithm)
        selector = self.loss.selector
        # One for all: with diff_rank_seed each rank built it with its own.
        selector.seed = all_gather_object(selector.seed)[0]
        own = {id(p) for p in selector.parameters()}
        # In a test the optimiser is still a config.
        for group in getattr(runner.optim_wrapper, 'param_groups', ()):
            group['params'] = [p for p in group['params'] if id(p) not in own]
        self.loss.measures_quality = bool(
            selector.learns or self.loss.grad_norm is not None or self.dump
        )
        quality = self.loss.quality
        if isinstance(quality, InfluenceQuality):
            quality.attach(self.algorithm.architecture)
        needs_probes = isinstance(quality, InfluenceQuality | MeasuredQuality)
        if needs_probes and not self.probe_interval:
            raise ValueError(
                f'{type(quality).__name__} is taken every probe_interval '
                'iterations, which LevelSelectionHook has at 0: set it, say '
                'to 20.'
            )
        if self.probe_dataloader is not None:
            self._held_out = runner.build_dataloader(self.probe_dataloader)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Sets the phase; measures the losses before the step."""
        now = runner.epoch if self.by_epoch else runner.iter
        self.learning = now >= self.warmup
        self.loss.applies_selection = now >= self.warmup + self.policy
        self.probing = bool(
            self.probe_interval and runner.iter % self.probe_interval == 0
        )
        quality = self.loss.quality
        if self.probing and isinstance(quality, MeasuredQuality):
            quality.see_losses(image_losses(self.algorithm, data_batch))
        if self.probing and isinstance(quality, InfluenceQuality):
            with undisturbed(self.algorithm), self.loss.probing():
                batch = self.algorithm.data_preprocessor(
                    data_batch
                    if self._held_out is None
                    else self._probe_batch(runner, self._held_out),
                    True,
                )
                student = self.algorithm.architecture
                quality.see_held_out(total_of(student(**batch, mode='loss')))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Rewards, learns, probes and records."""
        decision, self.loss.last = self.loss.last, None
        if decision is None:
            return
        if self.probing:
            self._log(runner, self._regrets(data_batch))
            if self._held_out is not None:
                batch = self._probe_batch(runner, self._held_out)
                self._log(runner, self._regrets(batch), 'held_out_')
        quality = self.loss.quality
        if self.probing and isinstance(quality, MeasuredQuality):
            quality.see_losses(image_losses(self.algorithm, data_batch))
        reward = quality.take(decision.applied)
        if reward is None:
            reward = torch.full_like(decision.selection.weights, torch.nan)
        selector = self.loss.selector
        selector.observe_losses(decision.losses)
        if self.loss.grad_norm is not None:
            norms = quality.distill_norms()
            self.loss.grad_norm.step(norms, decision.losses)
        known = reward.isfinite().any(1)
        if selector.learns:
            selector.observe(reward, known & self.learning)
            if self.learning and self.every_n_train_iters(
                runner, self.update_interval
            ):
                self._log(runner, selector.learn())
        self._log(runner, self._facts(decision))
        if self.dump and is_main_process():
            self._write(runner, decision, reward)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the selector's buffer and optimiser.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint to be saved.
        """
        state = {'selector': self.loss.selector.extra_state()}
        if isinstance(self.loss.quality, InfluenceQuality):
            state['gradients'] = self.loss.quality.gradients
        checkpoint['level_selection'] = state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes back the selector's buffer and optimiser in a resumed run.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint that was loaded.
        """
        if runner._resume and 'level_selection' in checkpoint:
            state = checkpoint['level_selection']
            selector = self.loss.selector
            selector.load_extra_state(state['selector'])
            gradients = state.get('gradients')
            if gradients is not None:
                device = selector.step.device
                self.loss.quality.gradients = [g.to(device) for g in gradients]

    def _facts(self, decision: Decision) -> dict[str, float]:
        rate = decision.applied.float().mean(0)
        facts = {
            f'selected_{level}': value
            for level, value in enumerate(rate.tolist())
        }
        facts['cost'] = float(rate @ decision.costs)
        if self.loss.grad_norm is not None:
            weights = self.loss.grad_norm.weights.tolist()
            facts |= {f'weight_{i}': w for i, w in enumerate(weights)}
        return facts

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

    def _regrets(self, data_batch: Any) -> dict[str, float]:
        """Regret of what the selector would choose on these images."""
        benefits = level_benefits(self.algorithm, data_batch)
        selector = self.loss.selector
        with undisturbed(self.algorithm), torch.no_grad():
            images = image_keys(benefits.data_samples)
            chosen = selector(
                *benefits.pyramids, benefits.costs, images
            ).levels
        known = benefits.quality.isfinite().all(1)
        if not known.any():
            return {}
        quality = benefits.quality[known]
        deviation = quality.std().clamp(min=1e-12)
        worth = quality / deviation - selector.lambda_cost * benefits.costs
        found = regrets(worth, benefits.costs, chosen[known])
        return {f'regret_{name}': value for name, value in found.items()}

    def _write(
        self, runner: Runner, decision: Decision, reward: torch.Tensor
    ) -> None:
        file = Path(runner.work_dir, 'levels.jsonl')
        selection = decision.selection
        samples = decision.data_samples or [None] * len(reward)
        with file.open('a') as lines:
            for n, sample in enumerate(samples):
                line = {
                    'iter': runner.iter,
                    **_describe_image(sample),
                    'levels': selection.levels[n].int().tolist(),
                    'applied': decision.applied[n].int().tolist(),
                    'probabilities': _rounded(selection.probabilities[n]),
                    'quality': _rounded(reward[n]),
                    'cost': round(float(selection.cost[n]), 5),
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
