"""Evaluates all levels of a batch and the regret of choices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import BaseModel

from kdvit_mm.models.utils.eval_mode import eval_mode
from kdvit_mm.models.utils.loss_gradients import (
    TASK,
    gradients_of,
    separate_losses,
)
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.selection.controller import SelectionController, find_controller
from kdvit_mm.selection.gradients import per_image
from kdvit_mm.selection.plan import Outcome, Plan
from kdvit_mm.selection.selectors.learning import above_price


@contextmanager
def probing(algorithm: BaseModel) -> Iterator[SelectionController]:
    """Distils all levels, without a trace in states and random streams.

    Args:
        algorithm (BaseModel): The algorithm; in eval mode inside.

    Yields:
        SelectionController: The one of the algorithm.
    """
    controller = find_controller(algorithm)
    with eval_mode(algorithm), isolated_rng(0), controller.aside():
        yield controller


def level_benefits(
    algorithm: BaseModel, data: dict[str, Any]
) -> tuple[Plan, Outcome]:
    """Evaluates all levels of a batch by one backward of each kind.

    Args:
        algorithm (BaseModel): The algorithm; its weights, statistics and
            gradients stay as they are.
        data (dict): A batch as the data loader gives it, with ground truth.

    Returns:
        tuple[Plan, Outcome]: What the selector would choose, and the quality
        of each level for each image, as of :class:`AlignedReward`.
    """
    with probing(algorithm) as controller, torch.enable_grad():
        batch = algorithm.data_preprocessor(data, True)
        losses = algorithm(**batch, mode='loss')
        plan, outcome = controller.plan, controller.outcome
        assert plan is not None and outcome is not None
        student: Any = outcome.state.student
        task = separate_losses(losses, ())[TASK]
        both = [
            gradients_of(task, student.used, None),
            gradients_of(outcome.losses.sum(), student, None),
        ]
    g, d = (
        [
            torch.zeros_like(x) if found is None else found.float()
            for x, found in zip(student, gradients, strict=True)
        ]
        for gradients in both
    )
    inner, *norms = (
        torch.stack([*map(per_image, a, b)], 1)
        for a, b in ((g, d), (g, g), (d, d))
    )
    scale = norms[0].sum(1) * norms[1].sum(1)
    outcome.quality = inner / scale.sqrt()[:, None]
    return plan, outcome


def image_losses(algorithm: BaseModel, data: dict[str, Any]) -> torch.Tensor:
    """Task loss and all levels' distill losses of each image.

    Args:
        algorithm (BaseModel): The algorithm; its statistics stay as they are.
        data (dict): A batch as the data loader gives it, with ground truth.

    Returns:
        torch.Tensor: The sum of each image's losses, of shape (N,).
    """
    totals = []
    with probing(algorithm), torch.no_grad():
        batch = algorithm.data_preprocessor(data, True)
        for n, sample in enumerate(batch['data_samples']):
            losses = algorithm(
                batch['inputs'][n : n + 1], [sample], mode='loss'
            )
            totals.append(algorithm.parse_losses(losses)[0])
    return torch.stack(totals)


def choice_regrets(
    algorithm: BaseModel, data: dict[str, Any]
) -> dict[str, float]:
    """Regret of what the selector would choose on a batch.

    Args:
        algorithm (BaseModel): The algorithm; it stays as it is.
        data (dict): A batch as the data loader gives it, with ground truth.

    Returns:
        dict[str, float]: Those of :func:`regrets` as ``regret_*``; empty if
        no image's quality is finite.
    """
    plan, outcome = level_benefits(algorithm, data)
    known = outcome.quality.isfinite().all(1)
    if not known.any():
        return {}
    quality, costs = outcome.quality[known], outcome.state.costs
    price = find_controller(algorithm).selector.lambda_cost * costs
    worth = quality / quality.std().clamp(min=1e-12) - price
    found = regrets(worth, costs, plan.levels[known])
    return {f'regret_{name}': value for name, value in found.items()}


def regrets(
    worth: torch.Tensor, costs: torch.Tensor, chosen: torch.Tensor
) -> dict[str, float]:
    """What choices miss against the best set of each image.

    Args:
        worth (torch.Tensor): Quality in deviations minus price of each level,
            of shape (N, L).
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).
        chosen (torch.Tensor): A selector's choice, booleans of shape (N, L).

    Returns:
        dict[str, float]: Mean regret of the choice ('policy'), of all levels
        ('all'), of the best set that is the same for all these images
        ('fixed'), and of random sets of the choice's mean cost ('random').
    """
    best = (worth * above_price(worth)).sum(1).mean()
    rate = (chosen.float() @ costs).mean()
    values = {
        'policy': (worth * chosen).sum(1).mean(),
        'all': worth.sum(1).mean(),
        'fixed': (worth.mean(0) * above_price(worth.mean(0))).sum(),
        'random': rate * worth.sum(1).mean(),
    }
    return {name: float(best - value) for name, value in values.items()}
