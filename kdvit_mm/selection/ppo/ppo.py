"""A policy that chooses an image's levels, learned by PPO."""

from typing import Any

import torch
from torch import nn

from kdvit_mm.registry import MODELS
from kdvit_mm.selection.plan import Plan, State
from kdvit_mm.selection.ppo.buffer import (
    RolloutBuffer,
    RolloutBufferSamples,
    minibatches,
    normalised,
)
from kdvit_mm.selection.ppo.distribution import JointActions, SequentialActions
from kdvit_mm.selection.ppo.policy import ActorCriticPolicy
from kdvit_mm.selection.selectors.learning import (
    LearningSelector,
    Records,
    explained_variance,
)
from kdvit_mm.selection.selectors.state import RunningMoments, StateEncoder

#: What of an episode goes into the buffer.
IN_BUFFER = ('observations', 'actions', 'log_probs', 'values', 'active')


@MODELS.register_module()
class PPOLevels(LearningSelector):
    r"""A learned policy of which levels are worth their price on an image.

    In each step of an episode the policy takes one of the levels not taken
    yet, or stops, which it cannot do before it has one. The reward of a step
    is :math:`\sum_i (q_i / \sigma - \lambda c_i)` over the levels it takes, q
    the observed quality, σ the running deviation of all levels' qualities, c
    the cost; stopping is worth 0.

    Schulman, Wolski, Dhariwal, Radford, Klimov: *Proximal Policy Optimization
    Algorithms*, arXiv:1707.06347; advantages by *High-Dimensional Continuous
    Control Using Generalized Advantage Estimation*, ICLR 2016,
    arXiv:1506.02438. Parts and options have the names that they have in
    stable-baselines3 (https://github.com/DLR-RM/stable-baselines3), whose
    update of one minibatch this one's equals; advantages are normalised over
    the whole buffer.

    The state is that of :class:`StateEncoder`, the levels taken so far and
    the share of the cost left. An image is learned from if all its chosen
    levels' qualities are known.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): As in :class:`LevelSelector`. Defaults to 0.0.
        hidden (int): Width of the two hidden layers of policy and critic.
            Defaults to 64.
        clip_range (float): How far the ratio of probabilities may be from 1
            before its gradient ends. Defaults to 0.2.
        n_epochs (int): Passes over the buffer per update. Defaults to 4.
        batch_size (int): Transitions of a step. Defaults to 64.
        gamma (float): Discount of later rewards. What a level is worth does
            not depend on the others taken, so 0 has the same best policy,
            and keeps the noise of later levels out of a level's advantage.
            Defaults to 1.0.
        gae_lambda (float): λ of the advantage estimate; 1 is the return minus
            the value, 0 the temporal difference. Defaults to 0.95.
        vf_coef (float): Weight of the critic's squared error. Defaults to
            0.5.
        ent_coef (float): Weight of the entropy. Defaults to 0.01.
        target_kl (float): An update ends early where the policy is more than
            1.5 times this divergence from what it was. Defaults to 0.02.
        max_grad_norm (float): Gradients are clipped to this norm. Defaults
            to 0.5.
        lr (float): Learning rate of Adam. Defaults to 3e-4.
        frozen (bool): Whether the policy acts without ever learning: a
            trained one, from ``init_cfg``. Defaults to False.
        seed (int | None): As in :class:`LevelSelector`. Defaults to None.
        init_cfg (dict | None): As in :class:`LevelSelector`. Defaults to
            None.
    """

    renamed_keys = {
        'clip': 'clip_range',
        'epochs': 'n_epochs',
        'minibatch': 'batch_size',
        'value_weight': 'vf_coef',
        'entropy_weight': 'ent_coef',
    }
    removed_keys = LearningSelector.removed_keys | {
        'action': "Instead of action='joint' write type='JointPPOLevels'.",
        'algorithm': "Instead of algorithm='reinforce' write "
        "type='ReinforceLevels'.",
        'shuffle_rewards': "Write type='ShuffledPPOLevels'.",
    }
    has_critic = True
    make_actions: type[SequentialActions] = SequentialActions

    def __init__(
        self,
        num_levels: int,
        lambda_cost: float = 0.0,
        hidden: int = 64,
        clip_range: float = 0.2,
        n_epochs: int = 4,
        batch_size: int = 64,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        vf_coef: float = 0.5,
        ent_coef: float = 0.01,
        target_kl: float = 0.02,
        max_grad_norm: float = 0.5,
        lr: float = 3e-4,
        frozen: bool = False,
        seed: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_levels, lambda_cost, seed, init_cfg)
        self.clip_range = clip_range
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.vf_coef = vf_coef
        self.ent_coef = ent_coef
        self.target_kl = target_kl
        self.max_grad_norm = max_grad_norm
        self.frozen = frozen
        self.learns = not frozen
        self.actions = self.make_actions(num_levels)
        self.encoder = StateEncoder(num_levels)
        self.policy = ActorCriticPolicy(
            self.encoder.size,
            num_levels,
            self.actions,
            hidden,
            self.seed,
            self.has_critic,
        ).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.policy.parameters(), lr, eps=1e-5
        )

    @torch.no_grad()
    def choose(self, state: State) -> Plan:
        """Draws the levels; in eval mode takes the most probable ones."""
        costs = state.costs
        raw, finite = self.encoder(state, self.running_losses)
        features = self.encoder.normalise(raw)
        table = self.actions.table.to(costs.device)
        generator = self._draws()
        chosen = costs.new_zeros(len(raw), self.num_levels).bool()
        active = ~chosen[:, 0]
        probabilities = chosen.float()
        episode = []
        for _ in range(self.actions.num_steps):
            budget = 1 - chosen.float() @ costs
            inputs = torch.cat([features, chosen, budget[:, None]], 1)
            distribution = self.policy.get_distribution(inputs)
            action = (
                distribution.sample(generator)
                if self.training
                else distribution.mode()
            )
            taken = table[action] & active[:, None]
            episode.append(
                {
                    'observations': inputs,
                    'actions': action,
                    'log_probs': distribution.log_prob(action),
                    'active': active,
                    'taken': taken,
                }
            )
            probabilities = torch.where(
                active[:, None] & ~chosen,
                distribution.probs @ table.float(),
                probabilities,
            )
            chosen = chosen | taken
            active = taken.any(1) & ~chosen.all(1)
        record = {
            key: torch.stack([step[key] for step in episode], 1)
            for key in episode[0]
        }
        record['values'] = self.policy.predict_values(record['observations'])
        if self.training:
            self._count_excluded(finite)
            self._keep_until_observed(finite, costs, raw=raw, **record)
        return self._plan_of(
            chosen,
            costs,
            finite,
            probabilities,
            log_prob=(record['log_probs'] * record['active']).sum(1),
            value=record['values'][:, 0],
        )

    def observe(self, quality: torch.Tensor, valid: torch.Tensor) -> None:
        """As in :class:`LearningSelector`; nothing if frozen."""
        if not self.frozen:
            super().observe(quality, valid)

    def _is_complete(self, record: Records) -> torch.Tensor:
        levels = record['taken'].any(1)
        return ~(levels & record['quality'].isnan()).any(1)

    def _update(
        self, records: Records, generator: torch.Generator
    ) -> dict[str, float]:
        self.encoder.update(records['raw'][records['finite']])
        valid = records['valid']
        if not valid.any():
            return {}
        records = {key: tensor[valid] for key, tensor in records.items()}
        buffer = RolloutBuffer(
            rewards=self._rewards(records, generator),
            **{key: records[key] for key in IN_BUFFER},
        )
        buffer.compute_returns_and_advantage(self.gamma, self.gae_lambda)
        return self._improve(buffer, generator) | {
            'return': float(buffer.rewards.sum(1).mean()),
            'num_transitions': float(buffer.active.sum()),
            'excluded': float((~valid).sum()),
        }

    def _rewards(
        self, records: Records, generator: torch.Generator
    ) -> torch.Tensor:
        """The reward of each step, of shape (N, T)."""
        quality = self._in_deviations(records['quality'].nan_to_num(0.0))
        worth = quality - self.lambda_cost * records['costs']
        return (records['taken'] * worth[:, None]).sum(2)

    def _improve(
        self, buffer: RolloutBuffer, generator: torch.Generator
    ) -> dict[str, float]:
        """Improves the policy by an update; returns diagnostics."""
        samples = buffer.transitions()
        samples = samples._replace(advantages=normalised(samples.advantages))
        done: list[dict[str, torch.Tensor]] = []
        with self._trainable() as parameters:
            for batch in minibatches(
                samples, self.batch_size, self.n_epochs, generator
            ):
                loss, numbers = self._clipped_loss(batch)
                done.append({k: v.detach() for k, v in numbers.items()})
                if numbers['approx_kl'] > 1.5 * self.target_kl:
                    break
                self._descend(loss, parameters)
        values = buffer.values[buffer.active]
        return {
            key: float(torch.stack([step[key] for step in done]).mean())
            for key in done[0]
        } | {'explained_variance': explained_variance(values, samples.returns)}

    def _clipped_loss(
        self, batch: RolloutBufferSamples
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values, log_prob, entropy = self.policy.evaluate_actions(
            batch.observations, batch.actions
        )
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        gain = torch.minimum(
            ratio * batch.advantages, clipped * batch.advantages
        )
        numbers = {
            'policy_loss': -gain.mean(),
            'value_loss': (values - batch.returns).square().mean(),
            'entropy': entropy.mean(),
            # An estimate of low variance that is never below 0.
            'approx_kl': (ratio - 1 - log_ratio).mean(),
            'clip_fraction': ((ratio - 1).abs() > self.clip_range)
            .float()
            .mean(),
        }
        loss = numbers['policy_loss'] + self.vf_coef * numbers['value_loss']
        return loss - self.ent_coef * numbers['entropy'], numbers

    def _descend(
        self, loss: torch.Tensor, parameters: list[nn.Parameter]
    ) -> None:
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.optimizer.step()


@MODELS.register_module()
class JointPPOLevels(PPOLevels):
    """All levels of an image are decided at once: the ablation of episodes.

    See :class:`JointActions` and, for the arguments, :class:`PPOLevels`.
    """

    make_actions = JointActions


@MODELS.register_module()
class ShuffledPPOLevels(PPOLevels):
    """Each image is given the return of a random image, at its last step.

    The ablation from which nothing can be learned; see :class:`PPOLevels` for
    the arguments.
    """

    def _rewards(
        self, records: Records, generator: torch.Generator
    ) -> torch.Tensor:
        rewards = super()._rewards(records, generator)
        order = torch.randperm(len(rewards), generator=generator)
        total = rewards.sum(1)[order.to(rewards.device)]
        last = records['active'].sum(1, keepdim=True) - 1
        return torch.zeros_like(rewards).scatter(1, last, total[:, None])


@MODELS.register_module()
class ReinforceLevels(PPOLevels):
    """The plain policy gradient: the ablation of PPO.

    An update is one step on the whole buffer with the return minus its
    running mean as advantage, no ratio and no critic. See :class:`PPOLevels`
    for the arguments; those of its clipping, epochs and critic are without
    effect.
    """

    has_critic = False

    def __init__(self, num_levels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_levels, *args, **kwargs)
        self.gae_lambda = 1.0
        self.baseline = RunningMoments(1)

    def _improve(
        self, buffer: RolloutBuffer, generator: torch.Generator
    ) -> dict[str, float]:
        samples = buffer.transitions()
        advantages = samples.returns - self.baseline.mean
        self.baseline.update(samples.returns[:, None])
        with self._trainable() as parameters:
            _, log_prob, entropies = self.policy.evaluate_actions(
                samples.observations, samples.actions
            )
            policy_loss = -(log_prob * advantages).mean()
            entropy = entropies.mean()
            self._descend(policy_loss - self.ent_coef * entropy, parameters)
        return {'policy_loss': policy_loss.item(), 'entropy': entropy.item()}
