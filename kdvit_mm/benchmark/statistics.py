"""Means over seeds, paired differences and what can be said of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy.stats import t as student_t

CONFIDENCE = 0.95
# With two pairs half of an interval is nine standard deviations.
MIN_PAIRS = 3
GAINS = 'gains'
LOSES = 'loses'
NO_DIFFERENCE = 'no difference'
TOO_FEW = 'too few seeds'


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean (float): The mean.
        half_width (float | None): Half the width of its 95 % interval; None
            for a single seed.
        n (int): Number of seeds.
        p_value (float | None): Probability of a mean at least as far from 0
            if the true one is 0; None for a single seed.
    """

    mean: float
    half_width: float | None
    n: int
    p_value: float | None = None

    def scaled(self, factor: float) -> 'Estimate':
        """The same in another unit.

        Args:
            factor (float): What it is multiplied by, above 0.

        Returns:
            Estimate: Mean and interval, multiplied.
        """
        half = self.half_width
        half = None if half is None else factor * half
        return Estimate(factor * self.mean, half, self.n, self.p_value)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, 95 % interval and p-value by Student's t distribution.

    Args:
        values (Sequence[float]): One value per seed.

    Returns:
        Estimate | None: None if there are no values.
    """
    n = len(values)
    if n == 0:
        return None
    mean = fmean(values)
    if n == 1:
        return Estimate(mean, None, n)
    error = stdev(values) / math.sqrt(n)
    quantile = float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1))
    if error:
        p_value = 2 * float(student_t.sf(abs(mean) / error, n - 1))
    else:
        p_value = 0.0 if mean else 1.0
    return Estimate(mean, quantile * error, n, p_value)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> Estimate | None:
    """Mean difference of the seeds that both have, and its interval.

    Args:
        values (Mapping[int, float]): Value of a row by seed.
        baseline (Mapping[int, float]): Value of its baseline by seed.

    Returns:
        Estimate | None: None if they share no seed.
    """
    shared = sorted(values.keys() & baseline.keys())
    return estimate([values[seed] - baseline[seed] for seed in shared])


def judge(differences: Sequence[Estimate | None]) -> list[str]:
    """Says which of a table's differences are more than chance.

    The 95 % level is that of the whole table, by Holm's correction
    (Scandinavian Journal of Statistics 6, 1979): the smallest of m p-values
    is compared with 0.05 / m, the next with 0.05 / (m - 1), and so on up to
    the first that fails. Differences without enough seeds count in m, so that
    no verdict weakens when they get theirs.

    Args:
        differences (Sequence[Estimate | None]): Paired differences; None
            where there is no pair yet.

    Returns:
        list[str]: Their verdicts: 'gains', 'loses', 'no difference', or 'too
        few seeds' below three pairs.
    """
    verdicts = [TOO_FEW] * len(differences)
    tested = sorted(
        (difference.p_value, i)
        for i, difference in enumerate(differences)
        if difference is not None
        and difference.p_value is not None
        and difference.n >= MIN_PAIRS
    )
    holds = True
    for rank, (p_value, i) in enumerate(tested):
        level = (1 - CONFIDENCE) / (len(differences) - rank)
        holds = holds and p_value < level
        difference = differences[i]
        assert difference is not None
        verdicts[i] = (
            NO_DIFFERENCE
            if not holds
            else GAINS
            if difference.mean > 0
            else LOSES
        )
    return verdicts


def gained_late(curve: Sequence[tuple[float, float]]) -> float | None:
    """Share of the final metric that the last quarter of a training gained.

    Args:
        curve (Sequence[tuple[float, float]]): Step and metric of each
            validation; between two the metric is interpolated.

    Returns:
        float | None: None if nothing was validated before the last quarter,
        or the final metric is not above 0.
    """
    if not curve:
        return None
    steps, values = zip(*curve, strict=True)
    start = 0.75 * steps[-1]
    if steps[0] > start or values[-1] <= 0:
        return None
    return float(1 - np.interp(start, steps, values) / values[-1])
