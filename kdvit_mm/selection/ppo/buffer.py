"""The episodes that an update is made from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch


class RolloutBufferSamples(NamedTuple):
    """Transitions, of shape (n, ...)."""

    observations: torch.Tensor
    actions: torch.Tensor
    old_log_prob: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


@dataclass
class RolloutBuffer:
    """Episodes of at most T steps that end in a terminal state.

    Attributes:
        observations (torch.Tensor): States, of shape (N, T, D).
        actions (torch.Tensor): What was done in them, of shape (N, T).
        log_probs (torch.Tensor): With which log-probability, of shape (N, T).
        values (torch.Tensor): Expected return before it, of shape (N, T).
        active (torch.Tensor): Whether the step was made, booleans of shape
            (N, T), first True and then False.
        rewards (torch.Tensor): Reward of each step, of shape (N, T).
    """

    observations: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    values: torch.Tensor
    active: torch.Tensor
    rewards: torch.Tensor

    def compute_returns_and_advantage(
        self, gamma: float, gae_lambda: float
    ) -> None:
        """Computes ``advantages`` and ``returns``, of shape (N, T).

        Args:
            gamma (float): Discount.
            gae_lambda (float): λ of the generalised advantage estimate.
        """
        self.advantages = torch.zeros_like(self.values)
        value = advantage = torch.zeros_like(self.values[:, 0])
        for step in reversed(range(self.values.size(1))):
            now, active = self.values[:, step], self.active[:, step]
            error = self.rewards[:, step] + gamma * value - now
            advantage = (error + gamma * gae_lambda * advantage) * active
            value = now * active
            self.advantages[:, step] = advantage
        self.returns = self.advantages + self.values

    def transitions(self) -> RolloutBufferSamples:
        """All steps that were made."""
        return RolloutBufferSamples(
            self.observations[self.active],
            self.actions[self.active],
            self.log_probs[self.active],
            self.advantages[self.active],
            self.returns[self.active],
        )


def minibatches(
    samples: RolloutBufferSamples,
    size: int,
    epochs: int,
    generator: torch.Generator,
) -> Iterator[RolloutBufferSamples]:
    """Goes through transitions in random order.

    Args:
        samples (RolloutBufferSamples): The transitions.
        size (int): Transitions of a minibatch.
        epochs (int): How often.
        generator (torch.Generator): Gives the orders.

    Yields:
        RolloutBufferSamples: A minibatch.
    """
    for _ in range(epochs):
        order = torch.randperm(len(samples.actions), generator=generator)
        for index in order.to(samples.actions.device).split(size):
            yield RolloutBufferSamples(*(tensor[index] for tensor in samples))


def normalised(advantages: torch.Tensor) -> torch.Tensor:
    """Brings advantages to mean 0 and deviation 1; a single one stays."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
