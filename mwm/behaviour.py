"""Actor and critic trained in imagination.

`N` starts, `L` imagined steps, hence L + 1 states, `F` width of a state's feature, `A` actions.
Source: Hafner et al. 2021; released code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mwm.config import MWMSection
from mwm.dynamics import Draw, Dynamics, States, feature_width
from mwm.networks import MLP
from mwm.policy import Actor, truncated_entropy, truncated_sample
from mwm.rewards import RewardScale, symexp


@dataclass
class Imagined:
    feature: Tensor  # [L + 1, N, F], the start's first
    action: Tensor  # [L + 1, N, A] that led to it; zeros for the start
    policy: tuple[Tensor, Tensor]  # means and deviations [L, N, A] in all states but the last


class Behaviour(nn.Module):
    """Actor, critic, the critic's target, and the scale of rewards.

    The target has weights of its own at the start: as released, the first update has random targets.
    """

    def __init__(self, section: MWMSection, actions: int):
        super().__init__()
        self.config, self.gradient = section.behaviour, section.actor_gradient
        width = feature_width(section.rssm)
        self.actor = Actor(width, section.actor_mlp, actions, self.config.min_std)
        self.critic = MLP(width, section.critic_mlp, 1)
        self.target = MLP(width, section.critic_mlp, 1).requires_grad_(False)
        self.scale = RewardScale(self.config.reward_momentum)

    def imagine(self, dynamics: Dynamics, start: States, draw: Draw, draw_action: Draw) -> Imagined:
        """Follows the policy from states [N, ...]; the gradient of features reaches actions, but no policy's input."""
        states, features, policies = start, [start.feature], []
        actions = [torch.zeros(len(start.deter), self.actor.std.out_features, device=start.deter.device)]
        for _ in range(self.config.horizon):
            mean, std = self.actor(features[-1].detach())
            policies.append((mean, std))
            actions.append(truncated_sample(mean, std, draw_action(tuple(mean.shape)), self.gradient))
            states, _ = dynamics.rssm.imagine_step(states, actions[-1], draw)
            features.append(states.feature)
        means, deviations = (torch.stack(parts) for parts in zip(*policies, strict=True))
        return Imagined(torch.stack(features), torch.stack(actions), (means, deviations))

    def losses(
        self, dynamics: Dynamics, imagined: Imagined, terminal: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Losses of actor and critic, and metrics; terminal bool [N]: of the starts, read with a discount head."""
        config, feature = self.config, imagined.feature
        raw = symexp(dynamics.imagined_reward(feature))
        reward = self.scale(raw)
        discount = self.discounts(dynamics, feature, terminal)
        weight = products_before(discount.detach())
        value = self.target(feature).squeeze(-1).float()
        returns = lambda_returns(reward, value, discount, config.lambda_return)
        policy_entropy = truncated_entropy(*(each[:-1] for each in imagined.policy))
        objective = returns[1:] + config.entropy_scale * policy_entropy
        actor_loss = -(weight[:-2] * objective).mean()
        predicted = self.critic(feature[:-1].detach()).squeeze(-1).float()
        critic_loss = (weight[:-1] * (predicted - returns.detach()).square()).mean()
        metrics = {
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
            "policy_entropy": policy_entropy.mean(),
            "imagined_reward": raw.mean(),
            "scaled_reward": reward.mean(),
            "value": predicted.mean(),
            "target_value": value.mean(),
            "returns": returns.mean(),
        }
        return actor_loss, critic_loss, metrics

    def discounts(self, dynamics: Dynamics, feature: Tensor, terminal: Tensor) -> Tensor:
        """Discounts [L + 1, N] behind each state: a constant, or the head's, except that a start knows its end."""
        discount = dynamics.imagined_discount(feature)
        if dynamics.discount is None:
            return discount
        known = self.config.discount * (1 - terminal.float())
        return torch.cat((known.unsqueeze(0), discount[1:]))

    @torch.no_grad()
    def update_target(self, updates: Tensor) -> None:
        """Copies the critic into its target after every `target_every`th update; `updates` int64 [], made before."""
        due = updates % self.config.target_every == 0
        for target, online in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            target.copy_(torch.where(due, online, target))


def products_before(discount: Tensor) -> Tensor:
    """Products of the earlier entries [L + 1, N] along the first axis; 1 for the first."""
    products = [torch.ones_like(discount[0])]
    for factor in discount[:-1]:
        products.append(products[-1] * factor)
    return torch.stack(products)


def lambda_returns(reward: Tensor, value: Tensor, discount: Tensor, weight: float) -> Tensor:
    """Returns [L, N] of rewards, values and discounts [L + 1, N]: of the first L states.

    `weight` is lambda: 0 bootstraps after a step, 1 at the last state alone.
    """
    returns, following = [], value[-1]
    for step in range(len(reward) - 2, -1, -1):
        mixed = (1 - weight) * value[step + 1] + weight * following
        following = reward[step] + discount[step] * mixed
        returns.append(following)
    return torch.stack(returns[::-1])


def starts(states: States) -> States:
    """All states [B, T, ...] of windows as starts of imaginations, without their gradient."""
    return States(states.stoch.detach().flatten(0, 1), states.deter.detach().flatten(0, 1))
