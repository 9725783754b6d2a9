"""The actions of a policy over levels, and distributions over them."""

import torch

from kdvit_mm.selection.selectors.selector import nonempty_sets


class MaskedCategorical:
    """A categorical distribution over the actions that are allowed.

    Args:
        logits (torch.Tensor): Of shape (n, A).
        allowed (torch.Tensor): Booleans of the same shape.
    """

    def __init__(self, logits: torch.Tensor, allowed: torch.Tensor) -> None:
        #: Of shape (n, A), minus infinity where an action is not allowed.
        self.log_probs = logits.masked_fill(~allowed, -torch.inf)
        self.log_probs = self.log_probs.log_softmax(1)

    @property
    def probs(self) -> torch.Tensor:
        """Probabilities, of shape (n, A)."""
        return self.log_probs.exp()

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of actions of shape (n,)."""
        return self.log_probs.gather(1, actions[:, None])[:, 0]

    def entropy(self) -> torch.Tensor:
        """Entropies, of shape (n,)."""
        # What is not allowed adds 0, not 0 times infinity.
        surprise = self.log_probs.masked_fill(self.log_probs.isinf(), 0.0)
        return -(self.probs * surprise).sum(1)

    def mode(self) -> torch.Tensor:
        """The most probable actions, of shape (n,)."""
        return self.log_probs.argmax(1)

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """Draws actions of shape (n,) from a generator on the CPU."""
        # log p - log e, e exponential, is largest at i with chance p_i. A log
        # of 0 would make infinity of a log p of minus infinity.
        drawn = torch.empty(self.log_probs.shape)
        drawn.exponential_(generator=generator).clamp_(min=1e-30).log_()
        return (self.log_probs - drawn.to(self.log_probs)).argmax(1)


class SequentialActions:
    """One of the levels not taken yet, or to stop once there is one.

    Args:
        num_levels (int): Number of levels, L.

    Attributes:
        table (torch.Tensor): The levels that each action takes, booleans of
            shape (A, L); stopping, the last one, takes none.
        num_outputs (int): Outputs that an actor needs.
        num_steps (int): Decisions of an episode at most.
    """

    def __init__(self, num_levels: int) -> None:
        self.table = torch.eye(num_levels + 1, num_levels).bool()
        self.num_outputs = num_levels + 1
        self.num_steps = num_levels

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits of all actions, (n, A), from an actor's outputs."""
        return outputs

    def distribution(
        self, outputs: torch.Tensor, chosen: torch.Tensor
    ) -> MaskedCategorical:
        """Distribution over the actions.

        Args:
            outputs (torch.Tensor): The actor's, of shape (n, num_outputs).
            chosen (torch.Tensor): The levels taken so far, booleans of shape
                (n, L).
        """
        takes = self.table.to(outputs)
        again = chosen.to(takes) @ takes.T > 0
        nothing = ~(takes.any(1) | chosen.any(1, keepdim=True))
        return MaskedCategorical(self.logits(outputs), ~(again | nothing))


class JointActions(SequentialActions):
    r"""One of the non-empty sets of levels, decided at once.

    One Bernoulli per level, given that there is at least one level:
    :math:`P(S) \propto \exp \sum_{i \in S} l_i` of the outputs l.
    """

    def __init__(self, num_levels: int) -> None:
        self.table = nonempty_sets(num_levels)
        self.num_outputs = num_levels
        self.num_steps = 1

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """As in :class:`SequentialActions`."""
        return outputs @ self.table.T.to(outputs)
