"""Verdicts on differences with a known effect, none, and too few seeds."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from kdvit_mm.benchmark.statistics import (
    Estimate,
    estimate,
    gained_late,
    judge,
    paired_difference,
)

# Of Student's t distribution with two degrees of freedom, from a table.
T_2 = 4.302652729911275


def test_statistics_by_hand():
    assert estimate([]) is None
    assert estimate([4.0]) == Estimate(4.0, None, 1)
    # Mean 2, standard deviation 1.
    three = estimate([1.0, 2.0, 3.0])
    assert three.mean == 2 and three.n == 3
    assert three.half_width == pytest.approx(T_2 / 3**0.5, rel=1e-9)
    # Differences 2, 3 and 4.
    row, base = {0: 3.0, 1: 5.0, 2: 7.0}, {2: 3.0, 1: 2.0, 0: 1.0}
    paired = paired_difference(row, base)
    assert paired.mean == 3
    assert paired.half_width == pytest.approx(T_2 / 3**0.5, rel=1e-9)
    half = paired.scaled(0.5)
    assert (half.mean, half.half_width) == (1.5, 0.5 * paired.half_width)
    assert half.p_value == paired.p_value
    del row[0], base[2]
    assert paired_difference(row, base) == Estimate(3.0, None, 1)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_p_value_is_that_of_the_paired_t_test():
    random = np.random.default_rng(0)
    row, base = 1 + random.normal(size=7), random.normal(size=7)
    paired = paired_difference(dict(enumerate(row)), dict(enumerate(base)))
    expected = ttest_rel(row, base)
    assert paired.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert paired.half_width == pytest.approx((high - low) / 2, rel=1e-9)


def test_the_interval_leaves_out_0_where_the_p_value_is_below_5_percent():
    for mean in np.linspace(0.5, 4, 29):
        three = estimate([mean - 1, mean, mean + 1])
        assert (three.half_width < mean) == (three.p_value < 0.05)
        assert judge([three]) == [
            'gains' if three.half_width < mean else 'no difference'
        ]


def differences(effect: float, seeds: int, noise: float, seed: int):
    """The paired difference of a row that has an effect."""
    random = np.random.default_rng(seed)
    return estimate(list(effect + noise * random.normal(size=seeds)))


@pytest.mark.parametrize('seeds', [3, 5, 10])
def test_known_effects(seeds):
    known = [differences(e, seeds, 0.1, 1) for e in (5.0, -5.0, 0.0)]
    assert judge(known) == ['gains', 'loses', 'no difference']
    assert judge(list(reversed(known))) == ['no difference', 'loses', 'gains']


def test_too_few_seeds_say_so():
    two = estimate([5.0, 5.001])
    assert two.p_value < 0.001
    assert judge([None, estimate([5.0]), two]) == ['too few seeds'] * 3


def test_equal_differences():
    assert judge([estimate([0.0] * 3)]) == ['no difference']
    assert judge([estimate([0.5] * 3)]) == ['gains']


def with_p_value(p_value: float, mean: float = 1.0) -> Estimate:
    return Estimate(mean, None, 5, p_value)


def test_holm_by_hand():
    """Levels for four rows are 0.0125, 0.0167, 0.025 and 0.05."""
    p_values = (0.01, 0.04, 0.03, 0.005)
    assert judge([with_p_value(p) for p in p_values]) == [
        'gains', 'no difference', 'no difference', 'gains',
    ]  # fmt: skip
    # The third passes its own level, but the second has failed.
    p_values = (0.001, 0.017, 0.02, 0.04)
    assert judge([with_p_value(p) for p in p_values]) == [
        'gains', *['no difference'] * 3,
    ]  # fmt: skip
    # All pass, though only one is below 0.0125.
    p_values = (0.01, 0.016, 0.024, 0.049)
    assert judge([with_p_value(p, -1) for p in p_values]) == ['loses'] * 4


def test_rows_without_seeds_count_in_the_correction():
    one = with_p_value(0.03)
    assert judge([one]) == ['gains']
    assert judge([one, None]) == ['no difference', 'too few seeds']


def test_tables_without_effect_are_right_in_95_percent():
    """At most one in 20 tables of ten rows without effect names a row."""
    random = np.random.default_rng(0)
    tables, rows, seeds = 400, 10, 5
    wrong = uncorrected = 0
    for _ in range(tables):
        rows_of_table = [
            estimate(list(random.normal(size=seeds))) for _ in range(rows)
        ]
        wrong += set(judge(rows_of_table)) != {'no difference'}
        uncorrected += any(judge([row]) == ['gains'] for row in rows_of_table)
    # Three standard errors above 5 %.
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables)
    assert 0 < wrong / tables < bound
    assert uncorrected / tables > 0.15


def test_a_strong_effect_is_found_with_five_seeds():
    """Three standard deviations, of which a t test misses few."""
    random = np.random.default_rng(1)
    found = [
        judge([estimate(list(3 + random.normal(size=5)))])[0]
        for _ in range(200)
    ]
    assert found.count('gains') > 190 and 'loses' not in found


def test_gain_of_the_last_quarter():
    # 30 at three quarters, 40 in the end.
    curve = [(6, 10.0), (12, 20.0), (18, 30.0), (24, 40.0)]
    assert gained_late(curve) == pytest.approx(0.25)
    # Between 20 at 6 and 40 at 10 there are 27.5 at 7.5.
    assert gained_late([(6, 20.0), (10, 40.0)]) == pytest.approx(0.3125)
    assert gained_late([(9, 50.0), (12, 40.0)]) == pytest.approx(-0.25)
    assert gained_late([]) is None
    assert gained_late([(10, 40.0)]) is None
    assert gained_late([(8, 40.0), (10, 41.0)]) is None
    assert gained_late([(1, 0.0), (2, 0.0)]) is None
