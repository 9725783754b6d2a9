"""Evaluates all levels of a batch and the regret of choices."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from kdvit_mm.models.losses.wrappers.selected_levels import SelectedLevelsLoss
from kdvit_mm.models.selectors.learning import above_price
from kdvit_mm.models.selectors.quality import total_of
from kdvit_mm.models.utils.eval_mode import eval_mode
from kdvit_mm.models.utils.random import isolated_rng


@dataclass
class Benefits:
    """What each level would be worth to each image.

    Attributes:
        quality (torch.Tensor): As of :class:`AlignedQuality`, of shape (N, L).
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).
        losses (torch.Tensor): Distill loss of each level, of shape (L,).
        pyramids (tuple): The student's and the teacher's maps.
        data_samples (list[Any]): The images' samples.
    """

    quality: torch.Tensor
    costs: torch.Tensor
    losses: torch.Tensor
    pyramids: tuple[Any, Any]
    data_samples: list[Any]


def find_selected_loss(algorithm: nn.Module) -> SelectedLevelsLoss:
    """The one :class:`SelectedLevelsLoss` of an algorithm.

    Args:
        algorithm (nn.Module): The algorithm, with its distiller.

    Returns:
        SelectedLevelsLoss: The loss.

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [
        module
        for module in algorithm.modules()
        if isinstance(module, SelectedLevelsLoss)
    ]
    if len(found) != 1:
        raise ValueError(
            f'The model has {len(found)} losses of type SelectedLevelsLoss '
            'instead of one. Give distill_losses in the distiller one, which '
            'takes the whole pyramid.'
        )
    return found[0]


@contextmanager
def undisturbed(algorithm: nn.Module) -> Iterator[None]:
    """Runs a model without leaving a trace in statistics and random streams.

    Args:
        algorithm (nn.Module): The model; in eval mode inside.
    """
    with eval_mode(algorithm), isolated_rng(0):
        yield


def level_benefits(algorithm: BaseModel, data: dict[str, Any]) -> Benefits:
    """Evaluates all levels of a batch by one backward of each kind.

    Args:
        algorithm (BaseModel): The algorithm; its weights, statistics and
            gradients stay as they are.
        data (dict): A batch as the data loader gives it, with ground truth.

    Returns:
        Benefits: The quality of each level for each image.
    """
    loss = find_selected_loss(algorithm)
    with undisturbed(algorithm), torch.enable_grad(), loss.probing() as probe:
        batch = algorithm.data_preprocessor(data, True)
        losses = algorithm(**batch, mode='loss')
        task = total_of(
            {k: v for k, v in losses.items() if not k.startswith('distill')}
        )
        student = probe.pyramids[0]
        gradients = (
            torch.autograd.grad(
                value, maps, retain_graph=True, allow_unused=True
            )
            for value, maps in (
                (task, student.used),
                (torch.stack(probe.losses).sum(), student),
            )
        )
        pairs = list(zip(student, *gradients, strict=True))
    inner, norms = [], []
    for feature, *pair in pairs:
        g, d = (
            torch.zeros_like(feature) if x is None else x.float() for x in pair
        )
        inner.append((g * d).flatten(1).sum(1))
        norms.append(
            torch.stack([x.square().flatten(1).sum(1) for x in (g, d)])
        )
    scale = torch.stack(norms).sum(0).prod(0).sqrt()
    return Benefits(
        quality=torch.stack(inner, 1) / scale[:, None],
        costs=probe.costs,
        losses=torch.stack([x.detach() for x in probe.losses]),
        pyramids=probe.pyramids,
        data_samples=probe.data_samples,
    )


def image_losses(algorithm: BaseModel, data: dict[str, Any]) -> torch.Tensor:
    """Task loss and all levels' distill losses of each image.

    Args:
        algorithm (BaseModel): The algorithm; its statistics stay as they are.
        data (dict): A batch as the data loader gives it, with ground truth.

    Returns:
        torch.Tensor: The sum of each image's losses, of shape (N,).
    """
    totals = []
    loss = find_selected_loss(algorithm)
    with undisturbed(algorithm), torch.no_grad(), loss.probing():
        batch = algorithm.data_preprocessor(data, True)
        for n, sample in enumerate(batch['data_samples']):
            losses = algorithm(
                batch['inputs'][n : n + 1], [sample], mode='loss'
            )
            totals.append(total_of(losses))
    return torch.stack(totals)


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
