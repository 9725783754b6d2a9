# Copyright (c) kdvit_mm contributors. All rights reserved.
"""Which samples of a training set are kept, and which are mixed into them."""

import math
from typing import Any

import torch

#: Power of the number of epochs in which a sample's value was seen, by which
#: its mean value is multiplied.
FREQUENCY_POWER = 0.03


class Condensation:
    """A training set that shrinks to its most valuable samples.

    Every step drops an equal number of samples: those of the lowest score
    among all samples, dropped ones included, which may thus come back. The
    kept samples of the lowest scores are mixed with those that just missed
    being kept, rank by rank: the first stays itself, the last has little more
    than ``min_share`` of itself. What is mixed stays mixed.

    A sample's score is its mean value over the epochs that it was seen in,
    times a power of their number. A sample that was never seen is kept.

    Args:
        number (int): Number of samples, N.
        keep_ratio (float): Share of them that is kept in the end.
        num_steps (int): Number of steps in which it is reached.
        min_share (float): Least share of a sample in its own mixture.

    Raises:
        ValueError: If a step would drop nothing.
    """

    def __init__(
        self,
        number: int,
        keep_ratio: float,
        num_steps: int,
        min_share: float,
    ) -> None:
        self.number = number
        self.min_share = min_share
        self.least = int(number * keep_ratio)
        self.dropped_at_once = int(number * (1 - keep_ratio) / num_steps)
        if not self.dropped_at_once:
            raise ValueError(
                f'keep_ratio={keep_ratio} in num_steps={num_steps} drops less '
                f'than one of {number} samples at a time. Lower one of them.'
            )
        self.sums = torch.zeros(number, dtype=torch.float64)
        self.counts = torch.zeros(number, dtype=torch.long)
        #: Indices of the samples that are kept, ascending.
        self.kept = torch.arange(number)
        #: Whether a sample was kept by each step, of shape (N,).
        self.history: list[torch.Tensor] = []
        steps = math.ceil((number - self.least) / self.dropped_at_once)
        # Workers of a data loader see what is changed in shared memory.
        #: What is mixed into a sample at each step, -1 for nothing.
        self.partners = torch.full((steps, number), -1).share_memory_()
        #: The sample's own share in that mixture.
        self.shares = torch.ones(steps, number).share_memory_()
        self._mixtures = 0

    def observe(self, values: torch.Tensor) -> None:
        """Takes the values of an epoch in.

        Args:
            values (torch.Tensor): Value of each sample, of shape (N,), not
                finite for one that was not seen.
        """
        values = values.double().cpu()
        seen = values.isfinite()
        self.sums += values.where(seen, 0)
        self.counts += seen

    def scores(self) -> torch.Tensor:
        """Computes the score of each sample.

        Returns:
            torch.Tensor: Scores of shape (N,), infinite for a sample that was
            never seen.
        """
        counts = self.counts.double()
        scores = self.sums / counts * counts**FREQUENCY_POWER
        return scores.nan_to_num(nan=math.inf)

    def step(self) -> torch.Tensor:
        """Drops samples, and mixes some into those that are kept.

        Returns:
            torch.Tensor: Indices of the samples that are mixed with another
            one from now on.
        """
        before = len(self.kept)
        keep = max(before - self.dropped_at_once, self.least)
        ranking = self.scores().argsort(descending=True, stable=True)
        missed = ranking[keep:before]
        mixed = ranking[:keep][-len(missed) :] if len(missed) else missed
        missed = missed[: len(mixed)]
        if len(mixed):
            rank = torch.arange(len(mixed))
            own = (1 - self.min_share) * ((len(mixed) - rank) / len(mixed))
            self.partners[self._mixtures, mixed] = missed
            self.shares[self._mixtures, mixed] = own + self.min_share
            self._mixtures += 1
        self.kept = ranking[:keep].sort().values
        is_kept = torch.zeros(self.number, dtype=torch.bool)
        is_kept[self.kept] = True
        self.history.append(is_kept)
        return mixed

    def state(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {
            'sums': self.sums.clone(),
            'counts': self.counts.clone(),
            'kept': self.kept.clone(),
            'history': [is_kept.clone() for is_kept in self.history],
            'partners': self.partners.clone(),
            'shares': self.shares.clone(),
            'mixtures': self._mixtures,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave.

        Args:
            state (dict): The state.

        Raises:
            ValueError: If it is of another number of samples or steps.
        """
        if state['partners'].shape != self.partners.shape:
            raise ValueError(
                'The checkpoint has a condensation in '
                f'{len(state["partners"])} steps of {len(state["sums"])} '
                f'samples, but the config one in {len(self.partners)} steps '
                f'of {self.number}. Resume with the data set, keep_ratio and '
                'num_steps of the checkpoint.'
            )
        self.sums = state['sums'].cpu()
        self.counts = state['counts'].cpu()
        self.kept = state['kept'].cpu()
        self.history = [is_kept.cpu() for is_kept in state['history']]
        self.partners.copy_(state['partners'])
        self.shares.copy_(state['shares'])
        self._mixtures = state['mixtures']
