"""Selectors that neither look at an image nor learn."""

from collections.abc import Sequence

import torch

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.plan import Plan, State
from kdvit_mm.selection.selectors.selector import LevelSelector, nonempty_sets


@MODELS.register_module()
class FixedLevels(LevelSelector):
    """The same levels for every image.

    Args:
        num_levels (int): Number of pyramid levels, L.
        levels (Sequence[int]): Indices of the chosen levels, counted from 0
            as the neck returns them.
        lambda_cost (float): As in :class:`LevelSelector`, without effect.
            Defaults to 0.0.

    Raises:
        ValueError: If there are no levels, or one that the pyramid lacks.
    """

    def __init__(
        self,
        num_levels: int,
        levels: Sequence[int],
        lambda_cost: float = 0.0,
    ) -> None:
        super().__init__(num_levels, lambda_cost)
        if not levels or not set(levels) <= set(range(num_levels)):
            raise ValueError(
                f'{type(self).__name__}: levels={list(levels)}, but a pyramid '
                f'of num_levels={num_levels} has the levels 0 to '
                f'{num_levels - 1}, of which at least one is chosen.'
            )
        self.levels = sorted(set(levels))

    def choose(self, state: State) -> Plan:
        """Chooses the levels."""
        shape = len(state.student[0]), self.num_levels
        levels = state.costs.new_zeros(shape).bool()
        levels[:, self.levels] = True
        return Plan.of(levels, state.costs)


@MODELS.register_module()
class AllLevels(FixedLevels):
    """All levels for every image, which is distillation as it is.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): As in :class:`LevelSelector`, without effect.
            Defaults to 0.0.
    """

    def __init__(self, num_levels: int, lambda_cost: float = 0.0) -> None:
        super().__init__(num_levels, range(num_levels), lambda_cost)


@MODELS.register_module()
class RandomLevels(LevelSelector):
    r"""Random levels for each image, at least one.

    With ``rate``, levels are chosen independently of each other, and a choice
    of none is drawn again: the share of images that a level is chosen for is
    :math:`r_i / (1 - \prod_j (1 - r_j))`.

    With ``cost``, a set S of levels has a probability proportional to
    :math:`e^{-\beta c(S)}`, c its cost. No distribution with this mean cost
    is more random. β is computed for each batch's costs, so that the mean
    is exact; it lies between the cheapest level's share and 1.

    Args:
        num_levels (int): Number of pyramid levels, L.
        rate (float | Sequence[float] | None): Probability of a level, or of
            each. Defaults to None, 0.5 if there is no ``cost``.
        cost (float | None): Mean share of all levels' cost. Defaults to None.
        lambda_cost (float): As in :class:`LevelSelector`, without effect.
            Defaults to 0.0.
        seed (int | None): As in :class:`LevelSelector`. Defaults to None.

    Raises:
        ValueError: If both are given, one is not in [0, 1], the rates are
            all 0 or not one per level; in the forward, if ``cost`` is below
            the cheapest level's.
    """

    sets: torch.Tensor

    def __init__(
        self,
        num_levels: int,
        rate: float | Sequence[float] | None = None,
        cost: float | None = None,
        lambda_cost: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(num_levels, lambda_cost, seed)
        if rate is not None and cost is not None:
            raise ValueError(
                'RandomLevels: rate and cost are two ways to say how much is '
                'chosen. Set one of them.'
            )
        rate = 0.5 if rate is None else rate
        rates = list(rate) if isinstance(rate, Sequence) else [rate]
        rates = rates * num_levels if len(rates) == 1 else rates
        if (
            len(rates) != num_levels
            or not all(0 <= r <= 1 for r in rates)
            or not any(rates)
        ):
            raise ValueError(
                f'RandomLevels: rate={rate} is not one number in [0, 1], or '
                f'num_levels={num_levels} of them, with one above 0.'
            )
        if cost is not None and not 0 < cost <= 1:
            raise ValueError(
                f"RandomLevels: cost={cost} is a share of all levels' cost, "
                'above 0 and at most 1.'
            )
        self.rates = torch.tensor(rates, dtype=torch.float64)
        self.cost = cost
        self.sets = nonempty_sets(num_levels)

    def choose(self, state: State) -> Plan:
        """Chooses the levels."""
        costs, number = state.costs, len(state.student[0])
        if self.cost is None:
            chances = torch.where(self.sets, self.rates, 1 - self.rates)
            chances = chances.prod(1)
        else:
            chances = self._chances_of_cost(costs.cpu().double())
        chances = chances / chances.sum()
        drawn = torch.multinomial(
            chances, number, replacement=True, generator=self._draws()
        )
        marginals = (chances @ self.sets.double()).to(costs)
        return Plan.of(
            self.sets[drawn].to(costs.device),
            costs,
            probabilities=marginals.expand(number, -1),
            log_prob=chances[drawn].log().to(costs),
        )

    def _chances_of_cost(self, costs: torch.Tensor) -> torch.Tensor:
        """Probabilities of the sets, of the mean cost that is asked for."""
        assert self.cost is not None
        cost_of_set = self.sets.double() @ costs
        # Shares come in float32.
        if self.cost < costs.min() - 1e-6:
            raise ValueError(
                f'RandomLevels: cost={self.cost} is below the share of the '
                f'cheapest level, {float(costs.min()):.3g}, and every image '
                'has at least one level. Raise cost.'
            )
        low, high = -1e6, 1e6
        # The mean falls with beta. Floats have no more than 80 halvings.
        for _ in range(80):
            beta = (low + high) / 2
            chances = (-beta * cost_of_set).softmax(0)
            if chances @ cost_of_set > self.cost:
                low = beta
            else:
                high = beta
        return chances
