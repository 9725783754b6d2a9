"""What holds for every selector that learns."""

import copy
import random

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from kdvit_mm.registry import MODELS, RenamedKeyWarning
from kdvit_mm.selection import (
    GatedLevels,
    GreedyLevels,
    RegressedLevels,
    State,
)
from kdvit_mm.selection.selectors.learning import (
    above_price,
    explained_variance,
    mlp,
)
from tests.test_selection.environments import (
    Images,
    observe,
    share_of_best,
    train,
)

POLICIES = {
    'ppo': dict(type='PPOLevels', lr=1e-2),
    'joint': dict(type='JointPPOLevels', lr=1e-2),
    'reinforce': dict(type='ReinforceLevels', lr=1e-2),
}
ON_STATE = {
    'regressed': dict(type='RegressedLevels', exploration=0.3),
    'gated': dict(type='GatedLevels', lr=1e-2),
    **POLICIES,
}
ALL = {'greedy': dict(type='GreedyLevels'), **ON_STATE}


def _build(config, num_levels=4, seed=0, **changes):
    config = dict(config, num_levels=num_levels, lambda_cost=0.5, **changes)
    if config['type'] != 'GreedyLevels':
        config['seed'] = seed
    return MODELS.build(config)


def _iterate(selector, images, number=8):
    """An iteration, with a distill loss for what needs its gradient."""
    if isinstance(selector, GatedLevels):
        state, quality = images.draw(number)
        selection = selector.plan(state)
        (selection.weights * quality).sum().backward()
        return selection
    return observe(selector, images, number)


def _learn(selector, images, updates=2):
    for _ in range(updates):
        for _ in range(3):
            _iterate(selector, images)
        diagnostics = selector.learn()
    return diagnostics


def _tensors(plan, images=slice(None)):
    return {
        key: value[images].detach()
        for key, value in vars(plan).items()
        if value is not None
    }


def _equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(
            one[key], other[key], rtol=0, atol=0, equal_nan=True, msg=key
        )


@pytest.mark.parametrize('name', ALL)
def test_resume_makes_the_same_draws_and_update(name, tmp_path):
    selector, images = _build(ALL[name]), Images(4)
    _learn(selector, images)
    selector.observe_losses(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # With something in the buffer.
    _iterate(selector, images)
    file = tmp_path / 'state.pth'
    torch.save([selector.state_dict(), selector.extra_state()], file)
    resumed = _build(ALL[name], seed=77)
    weights, extra = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    resumed.load_extra_state(extra)

    images, same = Images(4, seed=1), Images(4, seed=1)
    for _ in range(3):
        one, other = _iterate(selector, images), _iterate(resumed, same)
        _equal(_tensors(one), _tensors(other))
    assert selector.learn() == resumed.learn() != {}
    _equal(selector.state_dict(), resumed.state_dict())


@pytest.mark.parametrize('name', ALL)
def test_a_copy_learns_apart(name):
    selector, images = _build(ALL[name]), Images(4)
    _learn(selector, images)
    before = copy.deepcopy(selector.state_dict())
    copied = copy.deepcopy(selector)
    _learn(copied, images)
    _equal(selector.state_dict(), before)
    assert not torch.equal(copied.updates, selector.updates)


@pytest.mark.parametrize('name', ALL)
def test_global_random_streams_are_untouched(name):
    images = Images(4)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    _learn(_build(ALL[name], seed=None), images)
    drawn = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert drawn == (torch.rand(1).item(), np.random.rand(), random.random())


@pytest.mark.parametrize('name', ON_STATE)
def test_weights_are_of_the_run_s_seed(name):
    torch.manual_seed(4)
    one = _build(ON_STATE[name], seed=None).state_dict()
    _equal(one, _build(ON_STATE[name], seed=4).state_dict())
    other = _build(ON_STATE[name], seed=5).state_dict()
    assert any(not torch.equal(one[k], other[k]) for k in one if 'weight' in k)


@pytest.mark.parametrize('name', ALL)
def test_only_the_gate_needs_gradients(name):
    selector, images = _build(ALL[name]), Images(4)
    _learn(selector, images)
    for parameter in selector.parameters():
        assert parameter.requires_grad == (name == 'gated')
        assert parameter.grad is None


@pytest.mark.parametrize('name', ALL)
def test_eval_mode_keeps_and_counts_nothing(name):
    selector, images = _build(ALL[name]), Images(4)
    _learn(selector, images)
    before = copy.deepcopy([selector.state_dict(), selector.extra_state()])
    selector.eval()
    state, quality = images.draw(8)
    state.teacher[0][0] = torch.nan
    first = selector.plan(state)
    second = selector.plan(state)
    assert torch.equal(first.levels, second.levels)
    _equal(selector.state_dict(), before[0])
    assert str(selector.extra_state()) == str(before[1])
    if name != 'gated':
        with pytest.raises(RuntimeError, match='nothing was chosen'):
            selector.observe(quality, torch.ones(8, dtype=torch.bool))


@pytest.mark.parametrize('name', ALL)
def test_nothing_observed_is_nothing_learned(name):
    selector = _build(ALL[name])
    before = copy.deepcopy(selector.state_dict())
    assert selector.learn() == {}
    _equal(selector.state_dict(), before)


@pytest.mark.parametrize('name', [n for n in ALL if n != 'gated'])
def test_invalid_images_are_not_learned_from(name):
    selector, images = _build(ALL[name]), Images(4)
    weights = copy.deepcopy(dict(selector.named_parameters()))
    state, quality = images.draw(8)
    selector.plan(state)
    selector.observe(quality, torch.zeros(8, dtype=torch.bool))
    assert selector.learn() == {}
    _equal(dict(selector.named_parameters()), weights)
    # Nothing is known of the qualities either.
    assert selector.quality_moments.count == 0


@pytest.mark.parametrize('name', ON_STATE)
@pytest.mark.parametrize('bad', [torch.nan, torch.inf])
def test_bad_image_gets_all_levels_and_is_not_learned_from(name, bad):
    images = Images(4)
    batch = images.draw(6)
    bad_batch = copy.deepcopy(batch)
    bad_batch[0].student[1][2, 0, 0, 0] = bad

    def run(state, quality, valid):
        selector = _build(ON_STATE[name])
        selection = selector.plan(state)
        selector.observe(quality, valid)
        if name == 'gated':
            loss = selection.weights * quality
            loss[valid].sum().backward()
        diagnostics = selector.learn()
        return selector, selection, diagnostics

    valid = torch.ones(6, dtype=torch.bool)
    selector, selection, diagnostics = run(*bad_batch, valid)
    assert selector.num_excluded == 1
    assert selection.levels[2].all()
    if name == 'gated':
        assert selection.weights[2].tolist() == [1.0] * 4
    assert selection.probabilities[2].tolist() == [1.0] * 4
    assert selection.log_prob[2] == selection.value[2] == 0
    for key, tensor in _tensors(selection).items():
        assert tensor.isfinite().all(), key
    assert all(np.isfinite(list(diagnostics.values())))

    # The rest is as if the image had been left out by the caller.
    valid[2] = False
    other, expected, _ = run(*batch, valid)
    rest = [0, 1, 3, 4, 5]
    _equal(_tensors(selection, rest), _tensors(expected, rest))
    if name != 'gated':
        assert diagnostics['excluded'] == 1
    # The regression's inputs are normalised by all images that are finite.
    if name == 'regressed':
        assert len(selector.extra_state()['window']['raw']) == 5
    else:
        _equal(
            dict(selector.named_parameters()), dict(other.named_parameters())
        )


@pytest.mark.parametrize('name', ON_STATE)
def test_bad_images_are_warned_of_once(name, monkeypatch):
    warned = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', warned.append)
    selector, images = _build(ON_STATE[name]), Images(4)
    for _ in range(3):
        state, _ = images.draw(2)
        state.student[0][:] = torch.nan
        selector.plan(state)
    assert selector.num_excluded == 6
    assert len(warned) == 1
    assert 'num_excluded' in warned[0]


@pytest.mark.parametrize('name', ON_STATE)
def test_autocast_and_half_precision(name):
    selector, images = _build(ON_STATE[name]), Images(4)
    _learn(selector, images, 1)
    selector.eval()
    state, _ = images.draw(8)
    expected = selector.plan(state)
    with torch.autocast('cpu', torch.bfloat16):
        got = selector.plan(state)
    _equal(_tensors(expected), _tensors(got))
    selector.train()
    sides = state.student, state.teacher
    half = [[m.half() for m in maps] for maps in sides]
    got = selector.plan(State(*half, images.costs.double()))
    assert got.probabilities.dtype == got.cost.dtype == torch.float32
    assert got.probabilities.isfinite().all()
    with torch.autocast('cpu', torch.bfloat16):
        selector.observe(torch.ones(8, 4).half(), torch.ones(8) > 0)
        if name != 'gated':
            assert selector.learn()


@pytest.mark.parametrize('name', ON_STATE)
@pytest.mark.parametrize('num_levels', [1, 2, 3, 5, 6])
def test_any_number_of_levels(name, num_levels):
    selector, images = _build(ON_STATE[name], num_levels), Images(num_levels)
    diagnostics = _learn(selector, images)
    # A gate over one level has no gradient.
    assert diagnostics or (name, num_levels) == ('gated', 1)
    assert all(np.isfinite(list(diagnostics.values())))
    selection = _iterate(selector, images)
    assert selection.levels.shape == (8, num_levels)
    assert selection.levels.any(1).all()
    for parameter in selector.parameters():
        assert parameter.isfinite().all()


@pytest.mark.parametrize('name', [n for n in ALL if n != 'gated'])
def test_a_buffer_of_one(name):
    selector, images = _build(ALL[name]), Images(4)
    for _ in range(2):
        observe(selector, images, number=1)
        diagnostics = selector.learn()
        assert all(np.isfinite(list(diagnostics.values())))
    for parameter in selector.parameters():
        assert parameter.isfinite().all()


def _pretrained(selector, tmp_path):
    weights = {f'd.selector.{k}': v for k, v in selector.state_dict().items()}
    file = str(tmp_path / 'run.pth')
    torch.save(dict(state_dict=weights | {'other': torch.ones(1)}), file)
    return dict(type='Pretrained', checkpoint=file, prefix='d.selector')


@pytest.mark.parametrize('name', ALL)
def test_pretrained_selector_comes_from_a_checkpoint(name, tmp_path):
    selector, images = _build(ALL[name]), Images(4)
    _learn(selector, images)
    loaded = _build(
        ALL[name], init_cfg=_pretrained(selector, tmp_path), seed=9
    )
    loaded.init_weights()
    _equal(loaded.state_dict(), selector.state_dict())
    # The seed is the new run's.
    assert name == 'greedy' or loaded.seed == 9


@pytest.mark.parametrize('name', ALL)
def test_selector_of_other_levels_is_refused(name, tmp_path):
    init_cfg = _pretrained(_build(ALL[name]), tmp_path)
    selector = _build(ALL[name], 5, init_cfg=init_cfg)
    with pytest.raises(ValueError, match=r'running_losses: \(4,\) instead of'):
        selector.init_weights()
    with pytest.raises(ValueError, match='the 5 levels'):
        selector.load_state_dict(_build(ALL[name]).state_dict(), strict=False)


def test_other_policies_are_refused(tmp_path):
    init_cfg = _pretrained(_build(POLICIES['ppo']), tmp_path)
    for other in ('joint', 'reinforce', 'regressed'):
        selector = _build(ALL[other], init_cfg=init_cfg)
        with pytest.raises(ValueError, match='instead of'):
            selector.init_weights()


def test_missing_prefix_is_named(tmp_path):
    init_cfg = _pretrained(_build(POLICIES['ppo']), tmp_path)
    del init_cfg['prefix']
    selector = _build(POLICIES['ppo'], init_cfg=init_cfg)
    with pytest.raises(ValueError, match=r'more\. .* init_cfg\.prefix'):
        selector.init_weights()


def test_a_checkpoint_without_selector_is_left_to_torch():
    missing = _build(POLICIES['ppo']).load_state_dict({}, strict=False)
    assert 'policy.actor.0.weight' in missing.missing_keys


def test_qualities_are_scaled_by_their_running_deviation():
    selector, images = _build(ALL['greedy']), Images(4)
    for scale in (1.0, 3.0):
        state, _ = images.draw(50)
        selector.plan(state)
        quality = scale * torch.randn(
            50, 4, generator=torch.Generator().manual_seed(0)
        )
        selector.observe(quality, torch.ones(50, dtype=torch.bool))
        selector.learn()
    both = torch.cat([quality / 3, quality])
    torch.testing.assert_close(
        selector.quality_moments.deviation[0], both.std(unbiased=False)
    )


# What is particular to the simple ones.


def test_greedy_takes_what_pays_on_average():
    images = Images(4, 'fixed')
    selector = GreedyLevels(4, lambda_cost=0.5)
    # What is not known yet is tried.
    assert observe(selector, images, known='all').levels.all()
    diagnostics = selector.learn()
    assert diagnostics == dict(
        quality_0=-0.5, quality_1=-0.5, quality_2=1.0, quality_3=-0.5
    )
    expected = [[False, False, True, False]] * 16
    assert observe(selector, images, known='all').levels.tolist() == expected


def test_greedy_takes_the_best_if_nothing_pays_and_weighs_the_cost():
    images = Images(4)
    selector = GreedyLevels(4, lambda_cost=0.0)
    worth = torch.tensor([[-3.0, -2.0, 0.4, -1.0], [-1.0, -2.0, 0.2, -1.0]])

    def choose():
        state, _ = images.draw(2)
        return selector.plan(state).levels[0].tolist()

    for quality, expected in (
        (worth, [False, False, True, False]),
        (worth - 1, [False, False, True, False]),
        (worth + 5, [True, True, True, True]),
    ):
        selector.mean_quality.fill_(torch.nan)
        choose()
        selector.observe(quality, torch.ones(2, dtype=torch.bool))
        selector.learn()
        assert choose() == expected
    # Costs are .5 .25 .15 .1, qualities all of one deviation.
    selector.mean_quality.fill_(float(selector.quality_moments.deviation))
    for price, expected in (
        (1.9, [1, 1, 1, 1]),
        (3.9, [0, 1, 1, 1]),
        (9.9, [0, 0, 0, 1]),
        (90.0, [0, 0, 0, 1]),
    ):
        selector.lambda_cost = price
        assert choose() == [bool(x) for x in expected]


def test_greedy_mean_is_exponential_and_keeps_what_is_not_observed():
    selector, images = GreedyLevels(2), Images(2)
    nan = torch.nan
    for quality in ([[1.0, 2.0], [3.0, nan]], [[4.0, nan], [nan, nan]]):
        state, _ = images.draw(2)
        selector.plan(state)
        selector.observe(torch.tensor(quality), torch.tensor([True, True]))
        selector.learn()
    torch.testing.assert_close(
        selector.mean_quality, torch.tensor([0.9 * 2 + 0.1 * 4, 2.0])
    )


@pytest.mark.parametrize('lambda_cost', [0.0, 0.5, 2.0])
def test_regression_finds_each_image_s_levels(lambda_cost):
    images = Images(4)
    selector = RegressedLevels(4, lambda_cost, lr=3e-3, seed=0)
    diagnostics = train(selector, images, 12)
    assert share_of_best(selector, images) > 0.97
    assert diagnostics['explained_variance'] > 0.7


def test_weight_decay_keeps_the_regression_from_learning_noise_by_heart():
    def run(weight_decay):
        images = Images(4, noise=2.0)
        selector = RegressedLevels(
            4, 0.5, weight_decay=weight_decay, window=1024, epochs=2, seed=0
        )
        train(selector, images, 40)
        return share_of_best(selector, images)

    assert run(1.0) > 0.65 > run(0.0)


def test_regression_takes_all_until_it_has_learned_and_explores():
    images = Images(4, 'fixed')
    selector = RegressedLevels(4, exploration=0.2, lr=3e-3, seed=0)
    assert observe(selector, images).levels.all()
    train(selector, images, 15)
    state, _ = images.draw(4000)
    selection = selector.plan(state)
    assert selection.levels[:, 2].all()
    others = selection.levels[:, [0, 1, 3]].float()
    assert (others.mean(0) - 0.2).abs().max() < 0.03
    torch.testing.assert_close(
        selection.probabilities[0], torch.tensor([0.2, 0.2, 1.0, 0.2])
    )
    drawn = others.sum(1)
    torch.testing.assert_close(
        selection.log_prob.exp(), 0.2**drawn * 0.8 ** (3 - drawn)
    )
    selector.eval()
    selection = selector.plan(state)
    assert selection.levels.sum() == 4000
    assert (selection.log_prob == 0).all()


def test_regression_forgets_what_is_older_than_its_window():
    images = Images(4)
    selector = RegressedLevels(4, window=20, seed=0)
    train(selector, images, 1)
    window = selector.extra_state()['window']
    assert window['raw'].shape == (20, selector.encoder.size)
    assert window['quality'].shape == (20, 4)
    with pytest.raises(ValueError, match='exploration=2'):
        RegressedLevels(4, exploration=2)


def test_gate_is_trained_by_the_loss_that_it_weights():
    images = Images(4, 'one')
    gate = GatedLevels(4, lr=1e-2, seed=0)
    state, quality = images.draw(16)
    first = gate.plan(state)
    assert first.levels.all()
    torch.testing.assert_close(first.cost, torch.ones(16))
    torch.testing.assert_close(first.weights.sum(1), torch.full((16,), 4.0))
    assert (first.weights - 1).abs().max() < 0.2
    for _ in range(40):
        state, quality = images.draw(16)
        selection = gate.plan(state)
        # The bright level has the smallest loss.
        (selection.weights * (2 - quality)).sum().backward()
        diagnostics = gate.learn()
    assert diagnostics['gradient_norm'] > 0
    weights = gate.plan(state).weights
    assert (weights[quality > 0] > 3.5).all()


def test_gate_steps_with_what_gathered_and_clears_it():
    images = Images(4)
    batches = [images.draw(4) for _ in range(3)]
    gate = GatedLevels(4, lr=1e-2, seed=0)
    expected = copy.deepcopy(gate.network)
    adam = torch.optim.Adam(expected.parameters(), 1e-2)
    for state, quality in batches:
        selection = gate.plan(state)
        (selection.weights * quality).sum().backward()
        raw, _ = gate.encoder(state, gate.running_losses)
        weights = 4 * expected(gate.encoder.normalise(raw)).softmax(1)
        (weights * quality).sum().backward()
    adam.step()
    gate.learn()
    _equal(gate.network.state_dict(), expected.state_dict())
    assert gate.learn() == {}
    # An overflow of a gradient scaler leaves the weights alone.
    state, quality = batches[0]
    selection = gate.plan(state)
    (selection.weights * torch.inf).sum().backward()
    gate.learn()
    _equal(gate.network.state_dict(), expected.state_dict())
    assert all(p.grad is None for p in gate.parameters())


def test_above_price_takes_the_best_at_least():
    worth = torch.tensor([[0.1, -1.0, 0.2], [-3.0, -1.0, -2.0], [0, 0, 0]])
    assert above_price(worth).int().tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
    ]


def test_explained_variance():
    target = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(target, target) == 1
    assert explained_variance(torch.zeros(3), target) == 0
    assert explained_variance(-target, target) == pytest.approx(-3)
    assert explained_variance(target, torch.ones(3)) == 0


def test_network_starts_near_constant():
    network = mlp(10, 32, 3, 0.01, seed=0)
    first = network[0].weight
    torch.testing.assert_close(
        first.T @ first, 2 * torch.eye(10), atol=1e-5, rtol=0
    )
    assert network(torch.randn(50, 10)).abs().max() < 0.1


def test_unknown_policy_option_is_named():
    with pytest.raises(TypeError, match='Did you mean "n_epochs"'):
        MODELS.build(dict(type='PPOLevels', num_levels=3, n_epoch=3))


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('action', 'joint', "any more.*type='JointPPOLevels'"),
        ('algorithm', 'reinforce', "type='ReinforceLevels'"),
        ('shuffle_rewards', True, "type='ShuffledPPOLevels'"),
        ('remembers', True, 'no measurable effect'),
    ],
)
def test_keys_of_earlier_versions_say_what_is_there_instead(
    key, value, message
):
    config = dict(type='PPOLevels', num_levels=3)
    with pytest.raises(TypeError, match=message):
        MODELS.build(config | {key: value})


def test_renamed_keys_are_taken():
    with pytest.warns(RenamedKeyWarning, match='minibatch is now batch_size'):
        policy = MODELS.build(
            dict(type='PPOLevels', num_levels=3, minibatch=7)
        )
    assert policy.batch_size == 7
