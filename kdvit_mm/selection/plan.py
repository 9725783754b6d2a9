"""What is known of a batch, what is decided on it, and what comes of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class State:
    """What a selector sees of a batch.

    Attributes:
        student (Sequence[torch.Tensor]): The student's pyramid, a map of
            shape (N, C, H, W) per level.
        teacher (Sequence[torch.Tensor]): The teacher's, of any channels and
            sizes.
        costs (torch.Tensor): Each level's share of the cost of all levels,
            of shape (L,), with the sum 1.
        samples (Sequence[Any] | None): The batch's samples.
    """

    student: Sequence[torch.Tensor]
    teacher: Sequence[torch.Tensor]
    costs: torch.Tensor
    samples: Sequence[Any] | None = None


@dataclass
class Plan:
    """The levels that each image of a batch is to be distilled on.

    Attributes:
        levels (torch.Tensor): The chosen pairs of image and level, booleans
            of shape (N, L).
        probabilities (torch.Tensor): Probability with which each level was
            chosen, of shape (N, L). Of decisions in steps it is that at the
            step which chose the level, else at the last step.
        log_prob (torch.Tensor): Log-probability of the whole decision, of
            shape (N,); 0 where nothing is drawn.
        value (torch.Tensor): Expected return before the first choice, of
            shape (N,); 0 where there is no critic.
        cost (torch.Tensor): Share of all levels' cost, of shape (N,).
        weights (torch.Tensor | None): What the loss of each pair is
            multiplied by, of shape (N, L); None for 1.
    """

    levels: torch.Tensor
    probabilities: torch.Tensor
    log_prob: torch.Tensor
    value: torch.Tensor
    cost: torch.Tensor
    weights: torch.Tensor | None = None

    @classmethod
    def of(
        cls, levels: torch.Tensor, costs: torch.Tensor, **known: torch.Tensor
    ) -> 'Plan':
        """Completes a plan by what holds where nothing is drawn.

        Args:
            levels (torch.Tensor): Booleans of shape (N, L).
            costs (torch.Tensor): Share of each level, of shape (L,).
            **known (torch.Tensor): Other attributes.
        """
        chosen = levels.float()
        none = chosen.new_zeros(len(chosen))
        others = {'probabilities': chosen, 'log_prob': none, 'value': none}
        return cls(levels=levels, cost=chosen @ costs, **(others | known))


@dataclass
class Outcome:
    """What came of a plan.

    Attributes:
        state (State): What it was made from.
        mask (torch.Tensor): The pairs of image and level that were distilled,
            booleans of shape (N, L).
        losses (torch.Tensor): Each level's mean loss over its images, of
            shape (L,), NaN where it has none.
        quality (torch.Tensor): What the pairs were worth, of shape (N, L),
            NaN where it is not known.
    """

    state: State
    mask: torch.Tensor
    losses: torch.Tensor
    quality: torch.Tensor
