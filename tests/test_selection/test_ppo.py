import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from kdvit_mm.selection import (
    JointPPOLevels,
    PPOLevels,
    ReinforceLevels,
    ShuffledPPOLevels,
    State,
)
from kdvit_mm.selection.ppo.buffer import RolloutBuffer, normalised
from kdvit_mm.selection.selectors.selector import nonempty_sets
from tests.test_selection.environments import (
    Images,
    observe,
    share_of_best,
    train,
)

KINDS = (PPOLevels, JointPPOLevels)


def _policy(num_levels=3, kind=PPOLevels, seed=0, gain=30.0, **options):
    """A policy that is not uniform, for its output weights are large."""
    policy = kind(num_levels, seed=seed, **options)
    policy.policy.actor[-1].weight.mul_(gain)
    return policy


def _log_probs(policy, inputs):
    """Log-probabilities of all actions."""
    return policy.policy.get_distribution(inputs).log_probs


def _state(policy, chosen):
    """Input of a policy for one image, with the levels chosen so far."""
    torch.manual_seed(3)
    image = torch.randn(1, policy.encoder.size)
    images = image.expand(len(chosen), -1)
    return torch.cat([images, chosen.float(), torch.ones(len(chosen), 1)], 1)


# Probabilities.


def test_sequences_of_decisions_have_the_probability_1_together():
    policy = _policy(3)
    total = 0.0
    for length in range(1, 4):
        for order in itertools.permutations(range(3), length):
            # STOP is the action 3; after all levels there is no decision.
            actions = [*order, 3] if length < 3 else order
            chosen = torch.zeros(1, 3, dtype=torch.bool)
            log_prob = 0.0
            for action in actions:
                inputs = _state(policy, chosen)
                log_p = _log_probs(policy, inputs)[0]
                log_prob += log_p[action].item()
                if action < 3:
                    chosen[0, action] = True
            total += math.exp(log_prob)
    assert total == pytest.approx(1, abs=1e-5)


def test_joint_policy_is_bernoulli_given_at_least_one_level():
    policy = _policy(3, JointPPOLevels)
    chosen = torch.zeros(1, 3, dtype=torch.bool)
    inputs = _state(policy, chosen)
    got = _log_probs(policy, inputs)[0].exp()
    rates = policy.policy.actor(inputs)[0].sigmoid()
    assert got.sum() == pytest.approx(1, abs=1e-5)
    sets = nonempty_sets(3)
    assert sorted(map(tuple, sets.tolist())) == sorted(
        levels
        for levels in itertools.product([False, True], repeat=3)
        if any(levels)
    )
    for levels, chance in zip(sets, got, strict=True):
        expected = torch.where(levels, rates, 1 - rates).prod()
        expected = expected / (1 - (1 - rates).prod())
        torch.testing.assert_close(chance, expected)


@pytest.mark.parametrize('num_levels', [1, 2, 4])
def test_what_is_chosen_is_not_chosen_again_and_stop_needs_a_level(num_levels):
    policy = _policy(num_levels)
    for levels in itertools.product([False, True], repeat=num_levels):
        chosen = torch.tensor([levels])
        log_p = _log_probs(policy, _state(policy, chosen))[0]
        allowed = [*(not level for level in levels), any(levels)]
        assert log_p.isfinite().tolist() == allowed
        assert log_p.exp().sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('gain', [1.0, 300.0])
def test_10000_decisions_break_no_rule(gain):
    policy, images = _policy(5, gain=gain), Images(5)
    selection = observe(policy, images, 10_000)
    record = policy.extra_state()['buffer'][0]
    actions, active = record['actions'], record['active']
    stop = (actions == 5) & active
    assert not stop[:, 0].any()
    assert selection.levels.any(1).all()
    for level in range(5):
        assert ((actions == level) & active).sum(1).max() <= 1
    # An episode is over after STOP or with all levels, not before.
    number = active.sum(1)
    last = actions.gather(1, number[:, None] - 1)[:, 0]
    assert ((last == 5) | (number == 5)).all()
    assert torch.equal(number - stop.sum(1), selection.levels.sum(1))
    if gain == 1:
        assert set(number.tolist()) == {2, 3, 4, 5}


def _frequencies(policy, number=30_000):
    """Decisions on the same image many times over."""
    state, _ = Images(3).draw(1)
    sides = (
        [maps.expand(number, -1, -1, -1) for maps in side]
        for side in (state.student, state.teacher)
    )
    return policy.plan(State(*sides, state.costs))


def test_joint_decisions_are_drawn_with_their_probabilities():
    selection = _frequencies(_policy(3, JointPPOLevels, gain=60.0))
    total = 0.0
    for levels in nonempty_sets(3):
        same = (selection.levels == levels).all(1)
        chance = selection.log_prob[same][0].exp().item()
        total += chance
        assert same.float().mean().item() == pytest.approx(chance, abs=0.015)
    assert total == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(
        selection.levels.float().mean(0),
        selection.probabilities[0],
        rtol=0,
        atol=0.015,
    )


def test_sequential_decisions_are_drawn_with_their_probabilities():
    policy = _policy(3, gain=60.0)
    selection = _frequencies(policy)
    policy.observe(
        torch.zeros_like(selection.probabilities), torch.ones(30_000) > 0
    )
    record = policy.extra_state()['buffer'][0]
    decisions = {}
    for actions, active, log_prob in zip(
        record['actions'].tolist(),
        record['active'].sum(1).tolist(),
        selection.log_prob.tolist(),
        strict=True,
    ):
        key = tuple(actions[:active])
        decisions.setdefault(key, []).append(log_prob)
    assert len(decisions) > 10
    for log_probs in decisions.values():
        chance = math.exp(log_probs[0])
        assert len(log_probs) / 30_000 == pytest.approx(chance, abs=0.015)


@pytest.mark.parametrize('kind', KINDS)
def test_entropy_is_the_mean_surprise(kind):
    policy = _policy(3, kind)
    chosen = torch.tensor([[False, False, False], [True, False, False]])
    chosen = chosen[:1] if kind is JointPPOLevels else chosen
    inputs = _state(policy, chosen)
    log_p = _log_probs(policy, inputs).double()
    counts = [chances.isfinite().sum().item() for chances in log_p]
    assert counts == ([7] if kind is JointPPOLevels else [3, 3])
    expected = [
        -sum(x.exp() * x for x in chances if x.isfinite()) for chances in log_p
    ]
    actions = torch.ones(len(chosen), dtype=torch.long)
    _, log_prob, entropy = policy.policy.evaluate_actions(inputs, actions)
    torch.testing.assert_close(
        entropy.double(), torch.stack(expected), rtol=1e-5, atol=1e-6
    )
    entropy = entropy.mean()
    torch.testing.assert_close(log_prob.double(), log_p[:, 1])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(
        log_p.exp(), 50_000, replacement=True, generator=generator
    )
    sampled = -log_p.gather(1, drawn).mean()
    assert sampled.item() == pytest.approx(entropy.item(), abs=0.02)


def test_selection_says_what_was_decided():
    policy, images = _policy(4, lambda_cost=0.3), Images(4)
    selection = observe(policy, images, 40)
    record = policy.extra_state()['buffer'][0]
    torch.testing.assert_close(
        selection.cost, selection.levels.float() @ images.costs
    )
    assert selection.weights is None
    for n in range(40):
        steps = record['active'][n].sum()
        log_prob = 0.0
        for t in range(steps):
            chosen = record['observations'][n, t, -5:-1] > 0.5
            inputs = record['observations'][n, t]
            budget = 1 - (chosen * images.costs).sum()
            assert inputs[-1].item() == pytest.approx(budget.item())
            chances = _log_probs(policy, inputs[None])[0]
            action = record['actions'][n, t]
            log_prob += chances[action].item()
            if action < 4:
                assert selection.probabilities[n, action].item() == (
                    pytest.approx(chances[action].exp().item(), abs=1e-5)
                )
        unchosen = ~selection.levels[n]
        torch.testing.assert_close(
            selection.probabilities[n][unchosen],
            chances[:4].exp()[unchosen],
        )
        assert selection.log_prob[n].item() == pytest.approx(
            log_prob, abs=1e-4
        )
        value = policy.policy.critic(record['observations'][n, :1])[0, 0]
        assert selection.value[n].item() == pytest.approx(
            value.item(), abs=1e-5
        )


@pytest.mark.parametrize('kind', KINDS)
def test_eval_mode_takes_the_most_probable(kind):
    policy, images = _policy(3, kind), Images(3)
    state, _ = images.draw(50)
    policy.eval()
    levels = policy.plan(state).levels
    raw, _ = policy.encoder(state, policy.running_losses)
    features = policy.encoder.normalise(raw)
    table = policy.actions.table
    for n in range(50):
        chosen = torch.zeros(1, 3, dtype=torch.bool)
        for _ in range(1 if kind is JointPPOLevels else 3):
            budget = 1 - chosen.float() @ images.costs
            inputs = torch.cat(
                [features[n : n + 1], chosen.float(), budget[:, None]], 1
            )
            best = _log_probs(policy, inputs).argmax(1)
            if not table[best].any():
                break
            chosen |= table[best]
        assert torch.equal(levels[n], chosen[0])


# Advantages.


def _advantages(rewards, values, active, gamma, gae_lambda):
    nothing = torch.zeros_like(rewards)
    buffer = RolloutBuffer(nothing, nothing, nothing, values, active, rewards)
    buffer.compute_returns_and_advantage(gamma, gae_lambda)
    torch.testing.assert_close(buffer.returns, buffer.advantages + values)
    return buffer.advantages


def test_advantages_by_hand():
    # Two steps, the second image stops after one.
    rewards = torch.tensor([[1.0, 2.0], [3.0, 9.0]])
    values = torch.tensor([[0.5, 1.0], [2.0, 7.0]])
    active = torch.tensor([[True, True], [True, False]])
    got = _advantages(rewards, values, active, 0.9, 0.5)
    # Second step: 2 - 1 = 1. First: 1 + 0.9 * 1 - 0.5 + 0.9 * 0.5 * 1.
    expected = torch.tensor([[1.85, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('gamma', [1.0, 0.9])
@pytest.mark.parametrize('gae_lambda', [0.0, 0.95, 1.0])
def test_advantages_are_the_weighted_sum_of_temporal_differences(
    gamma, gae_lambda
):
    torch.manual_seed(0)
    rewards, values = torch.randn(6, 5), torch.randn(6, 5)
    length = torch.tensor([1, 2, 3, 4, 5, 5])
    active = torch.arange(5) < length[:, None]
    got = _advantages(rewards, values, active, gamma, gae_lambda)
    for n in range(6):
        last = int(length[n])
        v = [*values[n, :last].tolist(), 0.0]
        errors = [
            rewards[n, t].item() + gamma * v[t + 1] - v[t] for t in range(last)
        ]
        for t in range(5):
            expected = sum(
                (gamma * gae_lambda) ** (k - t) * errors[k]
                for k in range(t, last)
            )
            assert got[n, t].item() == pytest.approx(expected, abs=1e-5)


def test_a_single_advantage_is_not_normalised():
    assert normalised(torch.tensor([3.0])).tolist() == [3.0]
    got = normalised(torch.tensor([1.0, 2.0, 6.0]))
    assert got.mean().item() == pytest.approx(0, abs=1e-6)
    assert got.std().item() == pytest.approx(1, abs=1e-6)


# One update.


def _reference_update(policy, buffer, quality):
    """PPO on the whole buffer, image by image and step by step."""
    actor, critic = copy.deepcopy([policy.policy.actor, policy.policy.critic])
    parameters = [*actor.parameters(), *critic.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    adam = torch.optim.Adam(parameters, 3e-3, eps=1e-5)
    scale = np.std(quality.numpy())

    states, masks, actions, olds, advantages, returns = [], [], [], [], [], []
    for n in range(len(buffer['actions'])):
        rewards, values = [], []
        taken = set()
        for t in range(int(buffer['active'][n].sum())):
            action = int(buffer['actions'][n, t])
            if isinstance(policy, JointPPOLevels):
                levels = [i for i in range(4) if (action + 1) >> i & 1]
                mask = [True] * 15
            else:
                levels = [action] if action < 4 else []
                mask = [i not in taken for i in range(4)] + [bool(taken)]
            taken |= set(levels)
            rewards.append(
                sum(
                    float(quality[n, i]) / scale - 0.5 * float(COSTS[i])
                    for i in levels
                )
            )
            states.append(buffer['observations'][n, t])
            values.append(critic(states[-1])[0].item())
            masks.append(mask)
            actions.append(action)
            olds.append(buffer['log_probs'][n, t])
        for t in range(len(rewards)):
            total = 0.0
            for k in range(t, len(rewards)):
                after = values[k + 1] if k + 1 < len(rewards) else 0.0
                total += (0.9 * 0.8) ** (k - t) * (
                    rewards[k] + 0.9 * after - values[k]
                )
            advantages.append(total)
            returns.append(total + values[t])
    advantages = torch.tensor(advantages)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

    for _ in range(3):
        losses = []
        for i, state in enumerate(states):
            logits = actor(state)
            if isinstance(policy, JointPPOLevels):
                logits = torch.stack(
                    [
                        sum(logits[b] for b in range(4) if (a + 1) >> b & 1)
                        for a in range(15)
                    ]
                )
            allowed = torch.tensor(masks[i])
            chances = logits[allowed].softmax(0)
            chance = chances[allowed[: actions[i]].sum()]
            ratio = chance / olds[i].exp()
            gain = torch.min(
                ratio * advantages[i],
                ratio.clamp(0.8, 1.2) * advantages[i],
            )
            entropy = -(chances * chances.log()).sum()
            error = (critic(state)[0] - returns[i]) ** 2
            losses.append(-gain + 0.25 * error - 0.1 * entropy)
        adam.zero_grad()
        torch.stack(losses).mean().backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        adam.step()
    return actor, critic


COSTS = Images(4).costs
SETTINGS = dict(
    lambda_cost=0.5,
    gamma=0.9,
    gae_lambda=0.8,
    n_epochs=3,
    batch_size=10_000,
    vf_coef=0.25,
    ent_coef=0.1,
    target_kl=1e9,
    lr=3e-3,
)


@pytest.mark.parametrize('kind', KINDS)
def test_an_update_equals_a_plain_reference(kind):
    policy = _policy(4, kind, **SETTINGS)
    images = Images(4)
    state, _ = images.draw(12)
    policy.plan(state)
    quality = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    policy.observe(quality, torch.ones(12, dtype=torch.bool))
    buffer = copy.deepcopy(policy.extra_state()['buffer'][0])
    networks = policy.policy
    before = copy.deepcopy(networks.actor.state_dict())
    actor, critic = _reference_update(policy, buffer, quality)
    policy.learn()
    moved = 0.0
    for got, expected in ((networks.actor, actor), (networks.critic, critic)):
        for name, value in got.state_dict().items():
            torch.testing.assert_close(
                value, expected.state_dict()[name], rtol=1e-4, atol=1e-5
            )
    for name, value in before.items():
        moved += (networks.actor.state_dict()[name] - value).abs().sum().item()
    assert moved > 1


@pytest.mark.parametrize('kind', KINDS)
def test_an_update_equals_stable_baselines3(kind):
    pytest.importorskip('stable_baselines3')
    from gymnasium import spaces
    from stable_baselines3 import PPO
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.logger import Logger

    policy = _policy(4, kind, **SETTINGS)
    images = Images(4)
    # All images' episodes of one environment, one after another.
    observe(policy, images, 20, known='all')
    record = policy.extra_state()['buffer'][0]
    active = record['active']
    steps = int(active.sum())
    scale = record['quality'].std(unbiased=False)
    worth = record['quality'] / scale - 0.5 * images.costs
    rewards = (record['taken'] * worth[:, None]).sum(2)[active]
    starts = torch.zeros_like(active)
    starts[:, 0] = True
    inputs = record['observations'][active]

    buffer = RolloutBuffer(
        steps,
        spaces.Box(-np.inf, np.inf, (inputs.size(1),)),
        spaces.Discrete(len(policy.actions.table)),
        device='cpu',
        gae_lambda=0.8,
        gamma=0.9,
    )
    for t in range(steps):
        buffer.add(
            inputs[t].numpy()[None],
            record['actions'][active][t].numpy()[None],
            rewards[t].numpy(),
            starts[active][t].numpy(),
            record['values'][active][t],
            record['log_probs'][active][t],
        )
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([True]))

    networks = copy.deepcopy(policy.policy).requires_grad_(True)
    networks.optimizer = torch.optim.Adam(
        networks.parameters(), 3e-3, eps=1e-5
    )
    networks.set_training_mode = networks.train
    theirs = PPO.__new__(PPO)
    theirs.__dict__.update(
        policy=networks,
        rollout_buffer=buffer,
        action_space=buffer.action_space,
        n_epochs=3,
        batch_size=None,
        lr_schedule=lambda _: 3e-3,
        clip_range=lambda _: 0.2,
        clip_range_vf=None,
        normalize_advantage=True,
        ent_coef=0.1,
        vf_coef=0.25,
        max_grad_norm=0.5,
        target_kl=None,
        verbose=0,
        _current_progress_remaining=1.0,
        _n_updates=0,
        _logger=Logger(None, []),
    )
    theirs.train()
    diagnostics = policy.learn()
    for ours, other in (
        (policy.policy.actor, networks.actor),
        (policy.policy.critic, networks.critic),
    ):
        for name, value in other.state_dict().items():
            torch.testing.assert_close(
                ours.state_dict()[name], value, rtol=1e-4, atol=1e-5
            )
    logged = theirs.logger.name_to_value
    for ours, other, sign in (
        ('policy_loss', 'policy_gradient_loss', 1),
        ('value_loss', 'value_loss', 1),
        ('entropy', 'entropy_loss', -1),
        ('clip_fraction', 'clip_fraction', 1),
        ('explained_variance', 'explained_variance', 1),
    ):
        assert diagnostics[ours] == pytest.approx(
            sign * float(logged[f'train/{other}']), rel=1e-3, abs=1e-5
        )


def test_reinforce_steps_along_the_return_less_its_running_mean():
    policy = _policy(
        3, ReinforceLevels, ent_coef=0.0, lr=1e-3, max_grad_norm=9
    )
    assert policy.policy.critic is None
    images = Images(3)
    train(policy, images, 1)
    baseline = policy.baseline.mean.item()
    selection = observe(policy, images, 30)
    assert (selection.value == 0).all()
    record = policy.extra_state()['buffer'][0]
    expected = copy.deepcopy(policy)
    expected.policy.requires_grad_(True)
    diagnostics = policy.learn()
    quality = record['quality'].nan_to_num(0.0)
    rewards = (record['taken'] * quality[:, None]).sum(2)
    rewards = rewards / policy.quality_moments.deviation
    loss, number = 0.0, 0
    for n in range(30):
        for t in range(int(record['active'][n].sum())):
            log_p = _log_probs(expected, record['observations'][n, t][None])
            ahead = rewards[n, t:].sum() - baseline
            loss -= log_p[0, record['actions'][n, t]] * ahead
            number += 1
    (loss / number).backward()
    expected.optimizer.step()
    for name, value in expected.policy.actor.state_dict().items():
        torch.testing.assert_close(
            policy.policy.actor.state_dict()[name], value, rtol=1e-4, atol=1e-6
        )
    assert diagnostics['policy_loss'] == pytest.approx(
        (loss / number).item(), abs=1e-5
    )
    assert diagnostics['return'] == pytest.approx(
        rewards.sum(1).mean().item(), abs=1e-5
    )


def test_an_update_ends_where_the_policy_has_moved_far():
    def run(target_kl):
        policy = _policy(4, lr=3e-2, n_epochs=20, target_kl=target_kl)
        train(policy, Images(4), 1)
        states = policy.optimizer.state_dict()['state']
        return int(states[0]['step'])

    # 20 epochs of several minibatches each.
    assert run(1e9) >= 40
    assert 1 <= run(0.01) < 20


@pytest.mark.parametrize('kind', [*KINDS, ReinforceLevels])
def test_diagnostics(kind):
    policy, images = _policy(4, kind), Images(4)
    diagnostics = train(policy, images, 1)
    keys = {'entropy', 'policy_loss', 'return', 'num_transitions', 'excluded'}
    if kind is not ReinforceLevels:
        keys |= {
            'approx_kl',
            'clip_fraction',
            'explained_variance',
            'value_loss',
        }
    assert diagnostics.keys() == keys
    assert all(type(value) is float for value in diagnostics.values())
    if kind is JointPPOLevels:
        assert diagnostics['num_transitions'] == 64
    assert diagnostics['excluded'] == 0


def test_image_with_a_chosen_level_of_unknown_quality_is_left_out():
    policy, images = _policy(4), Images(4)
    state, quality = images.draw(30)
    levels = policy.plan(state).levels
    quality[~levels] = torch.nan
    unknown = torch.arange(30) < 10
    for n in range(10):
        quality[n, levels[n].nonzero()[0]] = torch.nan if n % 2 else torch.inf
    policy.observe(quality, torch.ones(30, dtype=torch.bool))
    record = policy.extra_state()['buffer'][0]
    assert torch.equal(record['valid'], ~unknown)
    diagnostics = policy.learn()
    assert diagnostics['excluded'] == 10
    assert all(math.isfinite(value) for value in diagnostics.values())


def test_reward_is_in_deviations_of_quality_less_the_price():
    policy, images = _policy(4, JointPPOLevels, lambda_cost=0.7), Images(4)
    selection = observe(policy, images, 100, known='all')
    quality = policy.extra_state()['buffer'][0]['quality']
    worth = quality / quality.std(unbiased=False) - 0.7 * images.costs
    expected = (selection.levels * worth).sum(1).mean().item()
    assert policy.learn()['return'] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_frozen_policy_acts_and_does_not_change(kind):
    trained, images = _policy(4, kind), Images(4)
    train(trained, images, 2)
    frozen = kind(4, frozen=True, seed=0)
    frozen.load_state_dict(trained.state_dict())
    assert trained.learns
    assert not frozen.learns
    before = copy.deepcopy(frozen.state_dict())
    state, _ = images.draw(50)
    levels = trained.plan(state).levels
    assert torch.equal(frozen.plan(state).levels, levels)
    assert train(frozen, images, 2) == {}
    assert frozen.extra_state()['buffer'] == []
    for name, tensor in frozen.state_dict().items():
        if name != 'step':
            assert torch.equal(tensor, before[name]) or tensor.isnan().all()


# Is it solved?

LEARNERS = {
    PPOLevels: dict(lr=3e-3),
    JointPPOLevels: dict(lr=3e-3),
    ReinforceLevels: dict(lr=1e-2),
}


def _learner(kind, **options):
    return kind(4, seed=0, **LEARNERS[kind], **options)


@pytest.mark.parametrize('kind', LEARNERS)
def test_the_same_best_level_on_every_image_is_found(kind):
    images = Images(4, 'fixed')
    policy = _learner(kind)
    first = train(policy, images, 1)
    last = train(policy, images, 25)
    best = 1 / policy.quality_moments.deviation.item()
    assert first['return'] < 0.4 * best
    assert last['return'] > 0.9 * best
    assert share_of_best(policy, images) > 0.98


@pytest.mark.parametrize('kind', LEARNERS)
def test_each_image_s_best_level_is_found(kind):
    images = Images(4, 'one')
    policy = _learner(kind)
    assert share_of_best(policy, images) < 0.5
    diagnostics = train(policy, images, 35)
    assert share_of_best(policy, images) > 0.9
    # The decisions that are drawn while learning, too.
    best = 1 / policy.quality_moments.deviation.item()
    assert diagnostics['return'] > 0.8 * best


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('lambda_cost', [0.0, 1.0, 4.0])
def test_each_image_s_best_levels_are_found_at_their_price(kind, lambda_cost):
    images = Images(4)
    policy = _learner(kind, lambda_cost=lambda_cost)
    train(policy, images, 40)
    assert share_of_best(policy, images) > 0.85
    state, quality = images.draw(1000)
    policy.eval()
    levels = policy.plan(state).levels
    rate = levels[quality > 0].float().mean()
    # A good level is worth 1.33 deviations, the dearest one costs lambda / 2.
    assert (rate > 0.9) == (lambda_cost < 4)
    dearest = levels[:, 0][quality[:, 0] > 0].float().mean()
    assert (dearest < 0.5) == (lambda_cost == 4)


def test_without_later_rewards_noise_matters_less():
    def run(gamma):
        images = Images(4, noise=2.0)
        policy = _learner(PPOLevels, lambda_cost=0.5, gamma=gamma)
        train(policy, images, 40)
        return share_of_best(policy, images)

    assert run(0.0) > 0.65 > run(1.0)


def test_of_shuffled_rewards_nothing_is_learned():
    images = Images(4, 'one')
    policy = ShuffledPPOLevels(4, lr=3e-3, seed=0)
    before = share_of_best(policy, images)
    diagnostics = train(policy, images, 35)
    assert share_of_best(policy, images) < 0.5
    assert abs(before) < 0.5
    # The rewards are there, each at a whole episode's end.
    assert math.isfinite(diagnostics['return'])


def test_shuffled_rewards_are_whole_returns_of_other_images():
    policy, images = _policy(4, ShuffledPPOLevels), Images(4)
    observe(policy, images, 40)
    record = policy.extra_state()['buffer'][0]
    generator = torch.Generator().manual_seed(0)
    got = policy._rewards(record, generator)
    straight = PPOLevels._rewards(policy, record, generator).sum(1)
    assert not torch.allclose(got.sum(1), straight)
    torch.testing.assert_close(got.sum(1).sort()[0], straight.sort()[0])
    last = record['active'].sum(1) - 1
    got[torch.arange(40), last] = 0
    assert (got == 0).all()
