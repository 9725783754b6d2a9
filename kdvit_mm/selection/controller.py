"""Decides in each step what is distilled, and learns from what comes of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import nn

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.gradients import GradientWatch
from kdvit_mm.selection.level_wise import MaskedLevelWise
from kdvit_mm.selection.plan import Outcome, Plan, State
from kdvit_mm.selection.rewards import Measure


class Phase(Enum):
    """What is done with a selector's choices."""

    WARMUP = 'all levels are distilled, nothing is learned'
    LEARNING = 'the selector learns, all levels are distilled'
    JOINT = 'the selector learns, its choices are distilled'


class SelectionController(nn.Module):
    """Owns the phase of a level selection, and each step's plan and outcome.

    Without a hook its selector's choices are applied and nothing is learned.

    Args:
        num_levels (int): Number of levels, L.
        selector (dict): Config of the :class:`LevelSelector`, without
            ``num_levels``.
        reward (dict | None): Config of the :class:`Reward`. Defaults to None,
            :class:`AlignedReward`.
        grad_norm (dict | None): Config of :class:`GradNorm`. Defaults to
            None.
    """

    def __init__(
        self,
        num_levels: int,
        selector: dict,
        reward: dict | None = None,
        grad_norm: dict | None = None,
    ) -> None:
        super().__init__()
        levels = {'num_levels': num_levels}
        self.selector = MODELS.build({**levels, **selector})
        # mmengine's initialisation does not reach into a distiller's losses.
        self.selector.init_weights()
        self.reward = MODELS.build(
            {'type': 'AlignedReward', **levels, **(reward or {})}
        )
        self.grad_norm = (
            None
            if grad_norm is None
            else MODELS.build({'type': 'GradNorm', **levels, **grad_norm})
        )
        self.phase = Phase.JOINT
        self.plan: Plan | None = None
        self.outcome: Outcome | None = None
        self._watch = GradientWatch(num_levels)
        self._needs_gradients = True

    def prepare(
        self, param_groups: Sequence[dict], has_probes: bool, records: bool
    ) -> None:
        """Makes ready for a training.

        Args:
            param_groups (Sequence[dict]): The optimiser's groups, from which
                the selector's parameters are taken.
            has_probes (bool): Whether there will be probes.
            records (bool): Whether quality is wanted even where nothing is
                learned from it.

        Raises:
            ValueError: If the reward needs probes and there are none.
        """
        if self.reward.needs_probes and not has_probes:
            raise ValueError(
                f'{type(self.reward).__name__} is taken every probe_interval '
                'iterations, which LevelSelectionHook has at 0: set it, say '
                'to 20.'
            )
        # One for all: with diff_rank_seed each rank built it with its own.
        self.selector.seed = all_gather_object(self.selector.seed)[0]
        own = {id(p) for p in self.selector.parameters()}
        for group in param_groups:
            group['params'] = [p for p in group['params'] if id(p) not in own]
        self._needs_gradients = bool(
            records or self.selector.learns or self.grad_norm
        )

    def before_step(self, phase: Phase, measure: Measure | None) -> None:
        """Begins a training step.

        Args:
            phase (Phase): The phase.
            measure (Measure | None): Measures the images' losses; None
                except in probes.
        """
        self.phase = phase
        self.plan = self.outcome = None
        self.reward.before_step(measure)

    def distil(
        self, level_wise: MaskedLevelWise, state: State
    ) -> torch.Tensor:
        """Decides on a batch and distils it.

        Args:
            level_wise (MaskedLevelWise): Computes the loss.
            state (State): What is known of the batch.

        Returns:
            torch.Tensor: The loss, a scalar.
        """
        plan = self.selector.plan(state)
        mask, weights = plan.levels, plan.weights
        if self.phase is not Phase.JOINT:
            mask, weights = torch.ones_like(mask), None
        trains = self.training and torch.is_grad_enabled()
        if trains and self._needs_gradients:
            self._watch.watch(state.student, mask)
        loss, self.outcome = level_wise(
            state, mask, weights, self.grad_norm and self.grad_norm.weights
        )
        self.plan = plan
        return loss

    def after_step(
        self, measure: Measure | None
    ) -> tuple[Plan, Outcome] | None:
        """Tells the selector what its plan was worth.

        All ranks have to call it.

        Args:
            measure (Measure | None): As before the step.

        Returns:
            tuple[Plan, Outcome] | None: The step's plan and outcome; None if
            nothing was distilled.
        """
        plan, outcome = self.plan, self.outcome
        self.plan = self.outcome = None
        if plan is None or outcome is None:
            return None
        gradients = self._watch.take()
        quality = self.reward.after_step(outcome.mask, gradients, measure)
        if quality is not None:
            outcome.quality = quality
        losses = outcome.losses.detach()
        self.selector.observe_losses(losses)
        if self.grad_norm:
            nothing = torch.full_like(losses, torch.nan)
            norms = gradients.distill_norms if gradients else nothing
            self.grad_norm.step(norms, losses)
        if self.selector.learns:
            known = outcome.quality.isfinite().any(1)
            is_learning = self.phase is not Phase.WARMUP
            self.selector.observe(outcome.quality, known & is_learning)
        return plan, outcome

    def learn(self) -> dict[str, float]:
        """Makes one update. All ranks have to call it.

        Returns:
            dict[str, float]: Diagnostics; empty if nothing is learned.
        """
        return {} if self.phase is Phase.WARMUP else self.selector.learn()

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """What to log of a step.

        Args:
            outcome (Outcome): The step's.

        Returns:
            dict[str, float]: Selection rates, cost and weights.
        """
        rates = outcome.mask.float().mean(0)
        facts = {f'selected_{i}': x for i, x in enumerate(rates.tolist())}
        facts['cost'] = float(rates @ outcome.state.costs)
        if self.grad_norm:
            weights = self.grad_norm.weights.tolist()
            facts |= {f'weight_{i}': x for i, x in enumerate(weights)}
        return facts

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Distils all levels inside, which leaves the step as it is."""
        kept = self.phase, self.plan, self.outcome
        self.phase = Phase.LEARNING
        try:
            yield
        finally:
            self.phase, self.plan, self.outcome = kept

    def extra_state(self) -> dict[str, Any]:
        """What a resume needs besides the state dict, as plain data."""
        return {'selector': self.selector.extra_state()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`extra_state` gave.

        Args:
            state (dict): The state.
        """
        self.selector.load_extra_state(state['selector'])


def find_controller(algorithm: nn.Module) -> SelectionController:
    """The one :class:`SelectionController` of an algorithm.

    Args:
        algorithm (nn.Module): The algorithm, with its distiller.

    Returns:
        SelectionController: The controller.

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [
        module
        for module in algorithm.modules()
        if isinstance(module, SelectionController)
    ]
    if len(found) != 1:
        raise ValueError(
            f'The model has {len(found)} losses of type SelectedLevelsLoss '
            'instead of one. Give distill_losses in the distiller one, which '
            'takes the whole pyramid.'
        )
    return found[0]
