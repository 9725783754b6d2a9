"""Actor and critic."""

import torch
from torch import nn

from kdvit_mm.selection.ppo.distribution import (
    MaskedCategorical,
    SequentialActions,
)
from kdvit_mm.selection.selectors.learning import mlp


class ActorCriticPolicy(nn.Module):
    """Networks on an image's state, the levels taken, and the budget left.

    Args:
        num_features (int): Numbers of an image's state, D.
        num_levels (int): Number of levels, L. An observation has
            D + L + 1 numbers.
        actions (SequentialActions): What can be done.
        hidden (int): Width of the two hidden layers of both.
        seed (int): Seed of the weights.
        has_critic (bool): Whether there is a critic, else all values are 0.
            Defaults to True.
    """

    def __init__(
        self,
        num_features: int,
        num_levels: int,
        actions: SequentialActions,
        hidden: int,
        seed: int,
        has_critic: bool = True,
    ) -> None:
        super().__init__()
        self.actions = actions
        self.taken = slice(num_features, num_features + num_levels)
        size = num_features + num_levels + 1
        self.actor = mlp(size, hidden, actions.num_outputs, 0.01, seed)
        self.critic = (
            mlp(size, hidden, 1, 1.0, seed + 1) if has_critic else None
        )

    def get_distribution(
        self, observations: torch.Tensor
    ) -> MaskedCategorical:
        """Distribution over the actions in states of shape (n, D + L + 1)."""
        chosen = observations[:, self.taken] > 0.5
        return self.actions.distribution(self.actor(observations), chosen)

    def predict_values(self, observations: torch.Tensor) -> torch.Tensor:
        """Expected returns of states of shape (..., D + L + 1)."""
        if self.critic is None:
            return observations.new_zeros(observations.shape[:-1])
        return self.critic(observations)[..., 0]

    def evaluate_actions(
        self, observations: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the policy thinks of actions now.

        Args:
            observations (torch.Tensor): States, of shape (n, D + L + 1).
            actions (torch.Tensor): The actions taken in them, of shape (n,).

        Returns:
            tuple[torch.Tensor, torch.Tensor, torch.Tensor]: Values of the
            states, log-probabilities of the actions and entropies of the
            distributions, of shape (n,) each.
        """
        distribution = self.get_distribution(observations)
        return (
            self.predict_values(observations),
            distribution.log_prob(actions),
            distribution.entropy(),
        )
