import itertools

import pytest
import torch

from kdvit_mm.registry import MODELS
from kdvit_mm.selection import AllLevels, FixedLevels, RandomLevels, State

COSTS = torch.tensor([0.6, 0.25, 0.1, 0.05])


def _maps(number, levels=4):
    return [torch.zeros(number, 2, 1, 1)] * levels


def _choose(selector, number=3, costs=COSTS):
    maps = _maps(number, len(costs))
    return selector.plan(State(maps, maps, costs))


def test_all_levels():
    selection = _choose(MODELS.build(dict(type='AllLevels', num_levels=4)))
    assert selection.levels.tolist() == [[True] * 4] * 3
    assert selection.weights is None
    assert selection.probabilities.tolist() == [[1.0] * 4] * 3
    torch.testing.assert_close(selection.cost, torch.ones(3))
    assert selection.log_prob.tolist() == selection.value.tolist() == [0] * 3


def test_fixed_levels():
    selection = _choose(FixedLevels(4, [2, 0]))
    assert selection.levels.tolist() == [[True, False, True, False]] * 3
    torch.testing.assert_close(selection.cost, torch.full((3,), 0.7))


def test_what_does_not_learn_says_so_and_takes_observations():
    for selector in AllLevels(4), FixedLevels(4, [0]), RandomLevels(4):
        assert not selector.learns
        _choose(selector)
        selector.observe(torch.zeros(3, 4), torch.ones(3, dtype=torch.bool))
        assert selector.learn() == {}
        assert not list(selector.parameters())


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='AllLevels', num_levels=0), 'num_levels=0'),
        (dict(type='AllLevels', num_levels=2, lambda_cost=-0.1), '-0.1'),
        (
            dict(type='AllLevels', num_levels=2, lambda_cost=float('nan')),
            'lambda_cost=nan',
        ),
        (dict(type='FixedLevels', num_levels=3, levels=[3]), '0 to 2'),
        (dict(type='FixedLevels', num_levels=3, levels=[-1]), 'levels='),
        (dict(type='FixedLevels', num_levels=3, levels=[]), 'at least one'),
        (dict(type='RandomLevels', num_levels=3, rate=1.1), 'rate=1.1'),
        (dict(type='RandomLevels', num_levels=3, rate=0.0), 'above 0'),
        (dict(type='RandomLevels', num_levels=3, rate=[0.1, 0.2]), 'rate='),
        (dict(type='RandomLevels', num_levels=3, cost=0.0), 'cost=0.0'),
        (dict(type='RandomLevels', num_levels=3, cost=1.2), 'cost=1.2'),
        (dict(type='RandomLevels', num_levels=3, cost=1, rate=1), 'one of'),
    ],
)
def test_wrong_config_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(config)


def test_unknown_key_is_named():
    with pytest.raises(TypeError, match='Did you mean "levels"'):
        MODELS.build(dict(type='FixedLevels', num_levels=3, level=[0]))


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        (State(_maps(2, 3), _maps(2), COSTS), 'student has 3 levels'),
        (State(_maps(2), _maps(2, 5), COSTS), 'teacher has 5 levels'),
        (State(_maps(2), _maps(3), COSTS), '2 images, but the teacher'),
        (State(torch.zeros(2, 3, 4, 4), _maps(2), COSTS), 'one map of shape'),
        (State(_maps(2), _maps(2), COSTS[:3]), 'costs has the shape'),
    ],
)
def test_wrong_input_is_named(state, message):
    with pytest.raises(ValueError, match=message):
        AllLevels(4).plan(state)


def test_random_draws_differ_between_images_steps_and_seeds():
    selector = RandomLevels(4, seed=0)
    first, second = _choose(selector, 50), _choose(selector, 50)
    other = _choose(RandomLevels(4, seed=1), 50)
    assert len({tuple(row) for row in first.levels.tolist()}) > 5
    assert not torch.equal(first.levels, second.levels)
    assert not torch.equal(first.levels, other.levels)
    assert torch.equal(
        first.levels, _choose(RandomLevels(4, seed=0), 50).levels
    )


def test_random_draws_go_on_after_a_resume():
    selector = RandomLevels(4, seed=3)
    for _ in range(5):
        _choose(selector)
    resumed = RandomLevels(4, seed=8)
    resumed.load_state_dict(selector.state_dict())
    resumed.load_extra_state(selector.extra_state())
    for _ in range(3):
        assert torch.equal(
            _choose(selector, 20).levels, _choose(resumed, 20).levels
        )


def test_draws_in_eval_mode_do_not_shift_those_of_training():
    selector, other = RandomLevels(4, seed=0), RandomLevels(4, seed=0)
    selector.eval()
    _choose(selector)
    selector.train()
    assert torch.equal(_choose(selector, 20).levels, _choose(other, 20).levels)


def test_default_seed_is_the_run_s():
    torch.manual_seed(5)
    assert torch.equal(
        _choose(RandomLevels(4), 20).levels,
        _choose(RandomLevels(4, seed=5), 20).levels,
    )


@pytest.mark.parametrize(
    'rate', [0.5, 0.1, [0.9, 0.5, 0.0, 0.2], [1, 0, 0, 0]]
)
def test_rate_is_the_share_of_images_given_at_least_one_level(rate):
    selection = _choose(RandomLevels(4, rate=rate, seed=0), 20_000)
    rates = torch.tensor(rate).expand(4).float()
    expected = rates / (1 - (1 - rates).prod())
    assert selection.levels.any(1).all()
    torch.testing.assert_close(selection.probabilities[0], expected)
    # Five deviations of a share of 20000 images.
    torch.testing.assert_close(
        selection.levels.float().mean(0), expected, rtol=0, atol=0.018
    )


@pytest.mark.parametrize('cost', [0.06, 0.1, 0.3, 0.5, 0.8, 0.99])
def test_mean_cost_is_the_one_asked_for(cost):
    selection = _choose(RandomLevels(4, cost=cost, seed=0), 20_000)
    assert selection.levels.any(1).all()
    torch.testing.assert_close(
        selection.probabilities[0] @ COSTS, torch.tensor(cost)
    )
    error = selection.cost.std() / 20_000**0.5
    assert (selection.cost.mean() - cost).abs() < 4 * error


def test_cheapest_and_dearest_mean_costs():
    cheapest = _choose(RandomLevels(4, cost=0.05), 100).levels
    assert cheapest.tolist() == [[False, False, False, True]] * 100
    assert _choose(RandomLevels(4, cost=1.0), 100).levels.all()


def test_cost_below_the_cheapest_level_cannot_be_met():
    with pytest.raises(ValueError, match=r'cost=0.04 .* cheapest level, 0.05'):
        _choose(RandomLevels(4, cost=0.04))


def test_levels_of_equal_cost_are_equally_likely_at_half_the_rate():
    # exp(-beta c) with beta 0 is a uniform choice of the non-empty sets.
    costs = torch.full((3,), 1 / 3)
    uniform = 4 / 7
    selection = _choose(RandomLevels(3, cost=uniform), 2, costs)
    torch.testing.assert_close(
        selection.probabilities, torch.full((2, 3), uniform)
    )
    torch.testing.assert_close(
        selection.log_prob, torch.full((2,), 1 / 7).log()
    )


def test_log_probabilities_of_random_sets_are_their_frequencies():
    selection = _choose(
        RandomLevels(3, rate=[0.3, 0.5, 0.8], seed=1), 30_000, COSTS[:3]
    )
    total = 0.0
    for levels in itertools.product([False, True], repeat=3):
        same = (selection.levels == torch.tensor(levels)).all(1)
        if same.any():
            chance = selection.log_prob[same][0].exp()
            assert (same.float().mean() - chance).abs() < 0.015
            total += chance
    assert abs(total - 1) < 1e-5


def test_running_losses_are_an_exponential_mean_of_what_was_computed():
    selector = AllLevels(3)
    selector.observe_losses(torch.tensor([1.0, torch.nan, torch.nan]))
    selector.observe_losses(torch.tensor([2.0, 5.0, torch.nan]))
    selector.observe_losses(torch.tensor([torch.nan, 6.0, torch.inf]))
    torch.testing.assert_close(
        selector.running_losses,
        torch.tensor([1.02, 5.02, torch.nan]),
        equal_nan=True,
    )
