"""A policy that chooses an image's levels, learned by PPO."""

from collections.abc import Sequence

import torch
from torch import nn

from kdvit_mm.models.selectors.learning import (
    LearningSelector,
    Records,
    explained_variance,
    mlp,
)
from kdvit_mm.models.selectors.selector import Selection, nonempty_sets
from kdvit_mm.models.selectors.state import PyramidState, RunningMoments
from kdvit_mm.registry import MODELS

#: Log-odds that a remembered worth of one deviation starts with.
TRUST = 4.0


@MODELS.register_module()
class PPOLevels(LearningSelector):
    r"""A learned policy of which levels are worth their price on an image.

    In each step of a ``sequential`` episode the policy takes one of the
    levels not taken yet, or stops, which it cannot do before it has one. A
    ``joint`` policy decides once, with one Bernoulli per level, given that
    there is at least one level: :math:`P(S) \propto \exp \sum_{i \in S} l_i`
    of the network's outputs l. The reward of a step is
    :math:`\sum_i (q_i / \sigma - \lambda c_i)` over the levels it takes, q
    the observed quality, σ the running deviation of all levels' qualities, c
    the cost; stopping is worth 0.

    Schulman, Wolski, Dhariwal, Radford, Klimov: *Proximal Policy Optimization
    Algorithms*, arXiv:1707.06347; advantages by *High-Dimensional Continuous
    Control Using Generalized Advantage Estimation*, ICLR 2016,
    arXiv:1506.02438. An update of one minibatch equals stable-baselines3's.

    The state is that of :class:`PyramidState`, the levels taken so far and
    the share of the cost left. An image is learned from if all its chosen
    levels' qualities are known.

    Args:
        num_levels (int): Number of pyramid levels, L.
        lambda_cost (float): As in :class:`LevelSelector`. Defaults to 0.0.
        action (str): ``'sequential'`` or ``'joint'``. Defaults to
            'sequential'.
        algorithm (str): ``'ppo'``, or ``'reinforce'``: one step on the whole
            buffer with the return minus its running mean as advantage, no
            ratio and no critic. Defaults to 'ppo'.
        hidden (int): Width of the two hidden layers of policy and critic.
            Defaults to 64.
        clip (float): How far the ratio of probabilities may be from 1 before
            its gradient ends. Defaults to 0.2.
        epochs (int): Passes over the buffer per update. Defaults to 4.
        minibatch (int): Transitions of a step. Defaults to 64.
        gamma (float): Discount of later rewards. What a level is worth does
            not depend on the others taken, so 0 has the same best policy,
            and keeps the noise of later levels out of a level's advantage.
            Defaults to 1.0.
        gae_lambda (float): λ of the advantage estimate; 1 is the return minus
            the value, 0 the temporal difference. Defaults to 0.95.
        value_weight (float): Weight of the critic's squared error. Defaults
            to 0.5.
        entropy_weight (float): Weight of the entropy. Defaults to 0.01.
        target_kl (float): An update ends early where the policy is more than
            1.5 times this divergence from what it was. Defaults to 0.02.
        max_grad_norm (float): Gradients are clipped to this norm. Defaults
            to 0.5.
        lr (float): Learning rate of Adam. Defaults to 3e-4.
        frozen (bool): Whether the policy acts without ever learning: a
            trained one, from ``init_cfg``. Defaults to False.
        shuffle_rewards (bool): Whether each image is given the return of a
            random image of the buffer, at its last step: the ablation from
            which nothing can be learned. Defaults to False.
        seed (int | None): As in :class:`LevelSelector`. Defaults to None.
        init_cfg (dict | None): As in :class:`LevelSelector`. Defaults to
            None.
        remembers (bool): Whether the state has what the levels of the image
            were worth so far, minus their price, and the policy starts from
            it: a deviation is worth :data:`TRUST` in log-odds. Defaults to
            False.

    Raises:
        ValueError: If ``action`` or ``algorithm`` is neither of the two.
    """

    table: torch.Tensor

    def __init__(
        self,
        num_levels: int,
        lambda_cost: float = 0.0,
        action: str = 'sequential',
        algorithm: str = 'ppo',
        hidden: int = 64,
        clip: float = 0.2,
        epochs: int = 4,
        minibatch: int = 64,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        target_kl: float = 0.02,
        max_grad_norm: float = 0.5,
        lr: float = 3e-4,
        frozen: bool = False,
        shuffle_rewards: bool = False,
        seed: int | None = None,
        init_cfg: dict | None = None,
        remembers: bool = False,
    ) -> None:
        super().__init__(num_levels, lambda_cost, seed, init_cfg, remembers)
        for key, value, known in (
            ('action', action, ('sequential', 'joint')),
            ('algorithm', algorithm, ('ppo', 'reinforce')),
        ):
            if value not in known:
                raise ValueError(
                    f"PPOLevels: {key}='{value}' is neither '{known[0]}' nor "
                    f"'{known[1]}'."
                )
        self.joint = action == 'joint'
        self.clip = clip
        self.epochs = epochs
        self.minibatch = minibatch
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.value_weight = value_weight
        self.entropy_weight = entropy_weight
        self.target_kl = target_kl
        self.max_grad_norm = max_grad_norm
        self.frozen = frozen
        self.learns = not frozen
        self.shuffle_rewards = shuffle_rewards

        # The levels that each action takes. STOP, the last one, takes none.
        table = (
            nonempty_sets(num_levels)
            if self.joint
            else torch.eye(num_levels + 1, num_levels).bool()
        )
        self.register_buffer('table', table, persistent=False)
        self.encoder = PyramidState(num_levels, remembers)
        inputs = self.encoder.size + num_levels + 1
        outputs = num_levels if self.joint else num_levels + 1
        self.actor = mlp(inputs, hidden, outputs, 0.01, self.seed)
        self.critic: nn.Module | None = None
        if algorithm == 'ppo':
            self.critic = mlp(inputs, hidden, 1, 1.0, self.seed + 1)
        else:
            self.baseline = RunningMoments(1)
        self.requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.parameters(), lr, eps=1e-5)

    @torch.no_grad()
    def select(
        self,
        preds_S: Sequence[torch.Tensor],
        preds_T: Sequence[torch.Tensor],
        costs: torch.Tensor,
    ) -> Selection:
        """Draws the levels; in eval mode takes the most probable ones."""
        worth = self._recall(costs)
        if worth is not None:
            worth = worth - self.lambda_cost * costs
        raw, finite = self.encoder(
            preds_S, preds_T, self.running_losses, worth
        )
        state = self.encoder.normalise(raw)
        number, steps = len(raw), 1 if self.joint else self.num_levels
        noise = costs.new_zeros(number, steps, len(self.table))
        if self.training:
            # log p - log e, e exponential, is largest at i with chance p_i.
            # A log of 0 would make infinity of a log p of minus infinity.
            drawn = noise.cpu().exponential_(generator=self._draws())
            noise = drawn.clamp(min=1e-30).log().to(noise)

        chosen = costs.new_zeros(number, self.num_levels).bool()
        active = ~chosen[:, 0]
        probabilities = costs.new_zeros(number, self.num_levels)
        episode = []
        for step in range(steps):
            budget = 1 - chosen.float() @ costs
            inputs = torch.cat([state, chosen, budget[:, None]], 1)
            log_p = self.log_probabilities(inputs, chosen)
            action = (log_p - noise[:, step]).argmax(1)
            taken = self.table[action] & active[:, None]
            episode.append(
                {
                    'inputs': inputs,
                    'chosen': chosen,
                    'actions': action,
                    'taken': taken,
                    'log_probs': log_p.gather(1, action[:, None])[:, 0],
                    'active': active,
                }
            )
            probabilities = torch.where(
                active[:, None] & ~chosen,
                log_p.exp() @ self.table.float(),
                probabilities,
            )
            chosen = chosen | taken
            active = taken.any(1) & ~chosen.all(1)
        record = {
            key: torch.stack([entry[key] for entry in episode], 1)
            for key in episode[0]
        }
        record['values'] = self._values(record['inputs'])
        if self.training:
            self._count_excluded(finite)
            self._remember(finite, costs, raw=raw, **record)
        return self._selection(
            chosen,
            costs,
            finite,
            probabilities,
            log_prob=(record['log_probs'] * record['active']).sum(1),
            value=record['values'][:, 0],
        )

    def log_probabilities(
        self, inputs: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Log-probabilities of all actions in a state.

        Args:
            inputs (torch.Tensor): States, of shape (n, D).
            chosen (torch.Tensor): The levels taken so far, booleans of shape
                (n, L).

        Returns:
            torch.Tensor: Shape (n, A), minus infinity where an action is not
            allowed. A sequential policy has an action per level and STOP;
            the actions of a joint one are the sets of levels of
            :func:`nonempty_sets`.
        """
        logits = self.actor(inputs)
        if self.encoder.remembers:
            last = self.encoder.size
            worth = inputs[:, last - self.num_levels : last]
            logits[:, : self.num_levels] += TRUST * worth
        if self.joint:
            logits = logits @ self.table.T.float()
        takes = self.table.float()
        again = chosen.float() @ takes.T > 0
        nothing = ~(takes.any(1) | chosen.any(1, keepdim=True))
        return logits.masked_fill(again | nothing, -torch.inf).log_softmax(1)

    def observe(self, quality: torch.Tensor, valid: torch.Tensor) -> None:
        """As in :class:`LearningSelector`; nothing if frozen."""
        if not self.frozen:
            super().observe(quality, valid)

    def _is_complete(self, record: Records) -> torch.Tensor:
        levels = record['taken'].any(1)
        return ~(levels & record['quality'].isnan()).any(1)

    def _values(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.critic is None:
            return inputs.new_zeros(inputs.shape[:-1])
        return self.critic(inputs)[..., 0]

    def _update(
        self, records: Records, generator: torch.Generator
    ) -> dict[str, float]:
        self.encoder.update(records['raw'][records['finite']])
        valid = records['valid']
        if not valid.any():
            return {}
        records = {key: tensor[valid] for key, tensor in records.items()}
        rewards = self._rewards(records, generator)
        active = records['active']
        # Without a critic all values are 0, and the returns what came.
        advantages = generalised_advantages(
            rewards,
            records['values'],
            active,
            self.gamma,
            1.0 if self.critic is None else self.gae_lambda,
        )
        returns = advantages + records['values']
        batch = {
            key: records[key][active]
            for key in ('inputs', 'chosen', 'actions', 'log_probs')
        }
        batch['returns'] = returns[active]
        if self.critic is None:
            batch['advantages'] = batch['returns'] - self.baseline.mean
            self.baseline.update(batch['returns'][:, None])
            diagnostics = self._reinforce(batch)
        else:
            batch['advantages'] = normalised(advantages[active])
            diagnostics = self._ppo(batch, generator)
            diagnostics['explained_variance'] = explained_variance(
                records['values'][active], batch['returns']
            )
        return diagnostics | {
            'return': float(rewards.sum(1).mean()),
            'num_transitions': float(active.sum()),
            'excluded': float((~valid).sum()),
        }

    def _rewards(
        self, records: Records, generator: torch.Generator
    ) -> torch.Tensor:
        """The reward of each step, of shape (N, T)."""
        quality = self._in_deviations(records['quality'].nan_to_num(0.0))
        worth = quality - self.lambda_cost * records['costs']
        rewards = (records['taken'] * worth[:, None]).sum(2)
        if self.shuffle_rewards:
            order = torch.randperm(len(rewards), generator=generator)
            total = rewards.sum(1)[order.to(rewards.device)]
            last = records['active'].sum(1, keepdim=True) - 1
            rewards = torch.zeros_like(rewards).scatter(
                1, last, total[:, None]
            )
        return rewards

    def _ppo(
        self, batch: Records, generator: torch.Generator
    ) -> dict[str, float]:
        done: list[dict[str, torch.Tensor]] = []
        with self._trainable() as parameters:
            for _ in range(self.epochs):
                order = torch.randperm(
                    len(batch['actions']), generator=generator
                )
                for index in order.to(self.step.device).split(self.minibatch):
                    part = {key: batch[key][index] for key in batch}
                    loss, numbers = self._clipped_loss(part)
                    done.append({k: v.detach() for k, v in numbers.items()})
                    if numbers['approx_kl'] > 1.5 * self.target_kl:
                        return _means(done)
                    self._descend(loss, parameters)
        return _means(done)

    def _clipped_loss(
        self, batch: Records
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        log_prob, entropy = self._reconsider(batch)
        log_ratio = log_prob - batch['log_probs']
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        gain = torch.minimum(
            ratio * batch['advantages'], clipped * batch['advantages']
        )
        error = (self._values(batch['inputs']) - batch['returns']).square()
        policy_loss, value_loss = -gain.mean(), error.mean()
        loss = policy_loss + self.value_weight * value_loss
        return loss - self.entropy_weight * entropy, {
            'policy_loss': policy_loss,
            'value_loss': value_loss,
            'entropy': entropy,
            # An estimate of low variance that is never below 0.
            'approx_kl': (ratio - 1 - log_ratio).mean(),
            'clip_fraction': ((ratio - 1).abs() > self.clip).float().mean(),
        }

    def _reinforce(self, batch: Records) -> dict[str, float]:
        with self._trainable() as parameters:
            log_prob, entropy = self._reconsider(batch)
            policy_loss = -(log_prob * batch['advantages']).mean()
            loss = policy_loss - self.entropy_weight * entropy
            self._descend(loss, parameters)
        return {'policy_loss': policy_loss.item(), 'entropy': entropy.item()}

    def _reconsider(self, batch: Records) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the actions now, and the mean entropy."""
        log_p = self.log_probabilities(batch['inputs'], batch['chosen'])
        action = batch['actions'][:, None]
        # What is not allowed adds 0, not 0 times infinity.
        surprise = -log_p.exp() * log_p.masked_fill(log_p.isinf(), 0.0)
        return log_p.gather(1, action)[:, 0], surprise.sum(1).mean()

    def _descend(
        self, loss: torch.Tensor, parameters: list[nn.Parameter]
    ) -> None:
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.optimizer.step()


def generalised_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    active: torch.Tensor,
    gamma: float,
    gae_lambda: float,
) -> torch.Tensor:
    """Advantages of the steps of episodes that end in a terminal state.

    Args:
        rewards (torch.Tensor): Reward of each step, of shape (N, T).
        values (torch.Tensor): Expected return before it, of shape (N, T).
        active (torch.Tensor): Whether the step was made, booleans of shape
            (N, T), first True and then False.
        gamma (float): Discount.
        gae_lambda (float): λ of the estimate.

    Returns:
        torch.Tensor: Shape (N, T), 0 where no step was made.
    """
    advantages = torch.zeros_like(values)
    value = advantage = torch.zeros_like(values[:, 0])
    for step in reversed(range(values.size(1))):
        error = rewards[:, step] + gamma * value - values[:, step]
        advantage = error + gamma * gae_lambda * advantage
        advantage = advantage * active[:, step]
        value = values[:, step] * active[:, step]
        advantages[:, step] = advantage
    return advantages


def normalised(advantages: torch.Tensor) -> torch.Tensor:
    """Brings advantages to mean 0 and deviation 1; a single one stays."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def _means(steps: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    return {
        key: float(torch.stack([step[key] for step in steps]).mean())
        for key in steps[0]
    }
