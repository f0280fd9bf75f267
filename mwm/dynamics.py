"""Latent dynamics: a recurrent state-space model over pooled tokens, which predicts the tokens and the reward.

`B` windows, `T` steps, `N` any number of states, `S` spatial tokens, `D` width of the autoencoder's tokens,
`A` actions, `C` variables, `K` classes of each, `H` width of the recurrent state, `E` of an embedding, `F` = C * K + H
of a feature.
Source: Seo et al. 2022, section 3.2; Hafner et al. 2021; released code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwm.batch import WindowBatch
from mwm.config import PATCH, KLConfig, MWMSection, RSSMConfig
from mwm.networks import MLP
from mwm.pixels import PixelDecoder, PixelEncoder, pixel_loss
from mwm.rewards import reward_error
from mwm.tokens import Pool, Unpool

GATE_EPS = 1e-3  # layer norm over all gates; released code
UPDATE_BIAS = -1.0  # bias of the update gate, which keeps the state at the start; released code

Draw = Callable[[tuple[int, ...]], Tensor]  # a shape -> noise of it


@dataclass
class States:
    """Latent states of one leading shape."""

    stoch: Tensor  # [..., C * K], one-hot for each variable
    deter: Tensor  # [..., H]

    @property
    def feature(self) -> Tensor:
        return torch.cat((self.stoch, self.deter), dim=-1)


@dataclass
class Observed:
    """States of windows after their pictures, with the logits [B, T, C, K] of posterior and prior."""

    states: States
    posterior: Tensor
    prior: Tensor


class RSSM(nn.Module):
    """Recurrent state-space model with categorical variables.

    A function `draw` gives Gumbel noise of a shape; samples are its largest sum with the logits.
    """

    def __init__(self, config: RSSMConfig, embedding: int):
        super().__init__()
        self.config = config
        stoch, hidden, deter = config.variables * config.classes, config.hidden, config.deter
        self.img_in = nn.Linear(stoch + config.action_inputs, hidden)  # no activation behind it; released code
        self.cell = nn.Linear(hidden + deter, 3 * deter)
        self.cell_norm = nn.LayerNorm(3 * deter, eps=GATE_EPS)
        self.img_out = nn.Linear(deter, hidden)
        self.img_dist = nn.Linear(hidden, stoch)
        self.obs_out = nn.Linear(deter + embedding, hidden)
        self.obs_dist = nn.Linear(hidden, stoch)

    def start(self, count: int, device: torch.device) -> States:
        """States of all zeros."""
        stoch = torch.zeros(count, self.config.variables * self.config.classes, device=device)
        return States(stoch, torch.zeros(count, self.config.deter, device=device))

    def recur(self, states: States, action: Tensor) -> Tensor:
        """Recurrent states [N, H] after actions [N, A]."""
        filled = F.pad(action, (0, self.config.action_inputs - action.shape[-1]))
        x = self.img_in(torch.cat((states.stoch, filled), dim=-1))
        gates = self.cell_norm(self.cell(torch.cat((x, states.deter), dim=-1)).float())
        reset, candidate, update = gates.chunk(3, dim=-1)
        candidate = (reset.sigmoid() * candidate).tanh()
        update = (update + UPDATE_BIAS).sigmoid()
        return update * candidate + (1 - update) * states.deter

    def prior(self, deter: Tensor) -> Tensor:
        """Logits float32 [..., C, K] without a picture."""
        return self._logits(self.img_dist(F.elu(self.img_out(deter))))

    def posterior(self, deter: Tensor, embedding: Tensor) -> Tensor:
        """Logits float32 [..., C, K] with the picture's embedding [..., E]."""
        return self._logits(self.obs_dist(F.elu(self.obs_out(torch.cat((deter, embedding), dim=-1)))))

    def _logits(self, flat: Tensor) -> Tensor:
        return flat.float().unflatten(-1, (self.config.variables, self.config.classes))

    def observe_step(
        self, states: States, action: Tensor, embedding: Tensor, first: Tensor, draw: Draw
    ) -> tuple[States, Tensor]:
        """States after actions [N, A] and pictures of embeddings [N, E], and their logits.

        States and actions count as zero where `first` bool [N] is True. The released code also samples from the prior
        here, and does not use it.
        """
        goes_on = (~first).unsqueeze(-1).to(action.dtype)
        states = States(states.stoch * goes_on, states.deter * goes_on)
        deter = self.recur(states, action * goes_on)
        logits = self.posterior(deter, embedding)
        return States(sample(logits, draw), deter), logits

    def imagine_step(self, states: States, action: Tensor, draw: Draw) -> tuple[States, Tensor]:
        """States after actions [N, A], and their logits."""
        deter = self.recur(states, action)
        logits = self.prior(deter)
        return States(sample(logits, draw), deter), logits

    def observe(self, embedding: Tensor, action: Tensor, first: Tensor, draw: Draw) -> Observed:
        """States after each step of windows: embeddings [B, T, E], actions [B, T, A], first bool [B, T]."""
        states, steps = self.start(len(embedding), embedding.device), []
        for step in range(embedding.shape[1]):
            states, logits = self.observe_step(states, action[:, step], embedding[:, step], first[:, step], draw)
            steps.append((states.stoch, states.deter, logits))
        stoch, deter, posterior = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        return Observed(States(stoch, deter), posterior, self.prior(deter))


def sample(logits: Tensor, draw: Draw) -> Tensor:
    """One-hot samples [..., C * K] of logits [..., C, K]; their gradient is that of the probabilities."""
    probabilities = logits.softmax(dim=-1)
    chosen = (logits.detach() + draw(tuple(logits.shape))).argmax(dim=-1, keepdim=True)
    one_hot = (chosen == torch.arange(logits.shape[-1], device=logits.device)).to(probabilities.dtype)
    return (one_hot + probabilities - probabilities.detach()).flatten(-2)


def gumbel(uniforms: Tensor) -> Tensor:
    """Gumbel noise of uniform numbers in [0, 1); 0 gives -infinity, which no sample chooses."""
    return -(-uniforms.log()).log()


def entropy(logits: Tensor) -> Tensor:
    """Entropies [...] of independent variables, summed over them; logits [..., C, K]."""
    log = logits.log_softmax(dim=-1)
    return -(log.exp() * log).sum((-2, -1))


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL divergences [...] of the distributions of `logits` from those of `other`, both [..., C, K]."""
    log, other_log = logits.log_softmax(dim=-1), other.log_softmax(dim=-1)
    return (log.exp() * (log - other_log)).sum((-2, -1))


def kl_loss(posterior: Tensor, prior: Tensor, config: KLConfig) -> tuple[Tensor, Tensor]:
    """The balanced and clipped divergence as a loss [], and the plain ones [...]; logits [..., C, K].

    The clip is element by element, and outside of it there is no gradient.
    """
    value = divergence(posterior.detach(), prior)
    mixed = config.balance * value + (1 - config.balance) * divergence(posterior, prior.detach())
    return (config.scale * mixed).clamp(config.free, config.largest).mean(), value.detach()


class Dynamics(nn.Module):
    """Pool, RSSM, unpool and the heads of reward and discount: all that the dynamics optimiser trains."""

    def __init__(self, section: MWMSection, image_size: int):
        super().__init__()
        self.kl = section.kl
        self.discount_value = section.behaviour.discount
        width = feature_width(section.rssm)
        if section.world_model == "mwm":
            grid, tokens = image_size // PATCH, section.encoder.width
            self.pool = Pool(section.pool, tokens, grid)
            self.rssm = RSSM(section.rssm, section.pool.width)
            self.unpool = Unpool(section.unpool, width, tokens, grid)
            self.distance: tuple[str, Callable] = "token_loss", token_loss
        else:
            self.pool = PixelEncoder(section.pixels.depth, image_size)
            self.rssm = RSSM(section.rssm, self.pool.width)
            self.unpool = PixelDecoder(section.pixels.depth, image_size, width)
            self.distance = "pixel_loss", pixel_loss
        self.reward = MLP(width, section.reward_mlp, 1)
        self.discount = MLP(width, section.discount_mlp, 1) if section.discount_head else None

    def embed(self, features: Tensor, windows: int) -> Tensor:
        """Tokens [B * T, 1 + S, D] of `windows` = B windows, or their pixels -> embeddings [B, T, E]."""
        return self.pool(features).unflatten(0, (windows, -1))

    def loss(self, features: Tensor, batch: WindowBatch, draw: Draw) -> tuple[Tensor, Observed, dict[str, Tensor]]:
        """The sum of all losses for tokens [B * T, 1 + S, D] of a batch, or its pixels; the states, and metrics."""
        observed = self.rssm.observe(self.embed(features, len(batch.actions)), batch.actions, batch.first, draw)
        feature = observed.states.feature.flatten(0, 1)
        kl, value = kl_loss(observed.posterior, observed.prior, self.kl)
        name, distance = self.distance
        losses = {
            "kl_loss": kl,
            name: distance(self.unpool(feature), features),
            "reward_loss": reward_error(self.reward(feature).squeeze(-1), batch.rewards.flatten()),
        }
        if self.discount is not None:
            target = self.discount_value * (1 - batch.terminal.flatten().float())
            logits = self.discount(feature).squeeze(-1).float()
            losses["discount_loss"] = F.binary_cross_entropy_with_logits(logits, target)
        metrics = losses | {
            "kl": value.mean(),
            "prior_entropy": entropy(observed.prior.detach()).mean(),
            "posterior_entropy": entropy(observed.posterior.detach()).mean(),
        }
        return torch.stack(list(losses.values())).sum(), observed, metrics

    def imagined_reward(self, feature: Tensor) -> Tensor:
        """Logarithms of rewards [...] of features [..., F]."""
        return self.reward(feature).squeeze(-1).float()

    def imagined_discount(self, feature: Tensor) -> Tensor:
        """Discounts [...] of features [..., F]: the head's mean, or a constant."""
        if self.discount is None:
            return torch.full(feature.shape[:-1], self.discount_value, device=feature.device)
        return self.discount(feature).squeeze(-1).float().sigmoid()


def token_loss(predicted: Tensor, tokens: Tensor) -> Tensor:
    """Squared errors summed over a token's values and averaged over all tokens; both [N, 1 + S, D]."""
    return (predicted.float() - tokens).square().sum(-1).mean()


def feature_width(config: RSSMConfig) -> int:
    return config.variables * config.classes + config.deter
