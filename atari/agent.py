"""Rainbow with an auxiliary loss: acting, the update, and trained agents for other code.

`B` batch, `T` time, `A` actions, `N` atoms, `D` latent.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from atari import losses
from atari.annealing import make_horizon
from atari.config import AgentConfig, ReplayConfig, ResetConfig
from atari.networks import ActionEmbedding, Encoder, Head, make_networks, renormalize, scale_gradient, stage_layers
from atari.replay import SequenceBatch, SequenceReplay
from atari.resets import number_due, reset_auxiliary, reset_networks
from auxiliaries.slot import MOVES, Auxiliary, Group, Host, Shared, require_known, whole_loss
from harness.agent import Agent
from harness.compiled import compile_modules
from harness.config import HostFacts
from harness.convolution import fuse_encoder
from harness.fused import Compute
from harness.optimizers import adam_leaves, clear_adam, clip_in_step, make_adam
from harness.pixels import as_pixels, to_device
from harness.precision import make_autocast
from harness.seeding import Generators, derive_seed, numpy_generator
from harness.shadow import shadow_weights
from harness.spans import span
from harness.streams import Side, steps_beside
from harness.weights import read_weights
from mlr.augmentation import Augmentation, joined
from mlr.momentum import frozen_copy, momentum_update

GENERATORS = ("sampling", "noise", "augmentation_rl", "augmentation_next_target", "augmentation_next_online")
RL = "encoder_head"  # name of the RL loss's optimiser


class RainbowAgent(Agent):
    """Encoder and noisy dueling C51 head, trained with double DQN on prioritised sequences (docs/protocol.md).

    The target network is the online network before the step with the noise of the update before: it needs no copy.
    `make_auxiliary`, if there is one, makes an auxiliary loss from what the agent lends.
    """

    cycle = ((),)  # further arguments of `update_on_device`, by update: all are alike

    def __init__(
        self,
        config: AgentConfig,
        replay: ReplayConfig,
        facts: HostFacts,
        *,
        resets: ResetConfig | None,
        frame_stack: int,
        actions: int,
        augment: Augmentation,
        make_auxiliary: Callable[[Host], Auxiliary] | None,
        seed: int,
        precision: str,
        device: torch.device,
    ):
        self.config, self.replay_config, self.actions, self.device = config, replay, actions, device
        self._resets, self._facts, self._frame_stack, self._seed = resets, facts, frame_stack, seed
        self._augment, self._make_auxiliary = augment.to(device), make_auxiliary
        self.generators = Generators(seed, device, GENERATORS)
        self._precision, self._autocast = precision, make_autocast(precision, device)
        self.exploration = numpy_generator(seed, "exploration")
        self.networks, self.auxiliary = self._draw("parameters")
        if self.auxiliary is not None:
            require_known(self.auxiliary, MOVES, [RL])
        self.target = frozen_copy(self.networks) if config.target_tau < 1 else None
        for module in self.modules:
            module.to(device)
        self.encoder, self.head = self.networks.values()
        self._support = losses.support(config.v_min, config.v_max, config.atoms, device)
        self._noise = self.head.draw_noise(self.generators["noise"], device)
        self._previous_noise = self._noise.clone()
        self._beta = torch.zeros((), device=device)
        self.cycle_updates = 0  # since the last reset
        self._fresh_spread = torch.zeros((), device=device)  # spread of the latents in the cycle's first update
        self._horizon = make_horizon(config, device)
        self._make_optimizers()
        self.side = Side()

    def _draw(self, *purpose: str | int, alone: bool = False) -> tuple[nn.ModuleDict, Auxiliary | None]:
        """Networks with initial weights of their own seed, and an auxiliary on them; no other generator advances."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, *purpose))
            encoder, head = make_networks(self.config, self._frame_stack, self._facts.image_size, self.actions)
            has_auxiliary = self._make_auxiliary is not None and not alone
            auxiliary = self._make_auxiliary(self._host(encoder, head)) if has_auxiliary else None
        return nn.ModuleDict({"encoder": encoder, "head": head}), auxiliary

    def _host(self, encoder: Encoder, head: Head) -> Host:
        facts = self._facts
        return Host(
            facts=facts,
            encoder=encoder,
            renormalize=renormalize,
            layers=stage_layers(self.config.encoder, facts.image_size),
            projector=head.projector,
            projected_dim=self.config.hidden * (2 if self.config.head == "two_streams" else 1),
            head=nn.Linear,
            actions=self.actions,
            embed_actions=lambda width: ActionEmbedding(self.actions, width),
            frame_channels=1,
            view_channels=self._frame_stack,
            view_size=facts.image_size,
            augment=self._augment,
            augment_rl=self._augment,
            autocast=self._autocast,
            device=self.device,
            seed=self._seed,
            own_step=False,
            clip_norm=self.config.clip_norm,
        )

    def _make_optimizers(self) -> None:
        """One Adam for the RL loss and one for each group of the auxiliary that does not join it."""
        config, groups = self.config, self.auxiliary.groups if self.auxiliary is not None else ()
        joined = [parameter for group in groups if group.joins == RL for parameter in group.parameters]
        own = [group for group in groups if group.joins is None and group.parameters]
        stepped = [Group(RL, [*self.networks.parameters(), *joined], clip=config.clip_norm), *own]
        self._clips = {group.name: group.clip for group in stepped}
        self.optimizers = {
            group.name: make_adam(
                group.parameters,
                group.rate_factor * config.learning_rate,
                (config.adam_beta1, config.adam_beta2),
                config.adam_eps,
                weight_decay=group.weight_decay,
                decoupled_decay=config.weight_decay,
                clipped=group.clip is not None,
            )
            for group in stepped
        }

    @property
    def modules(self) -> list[nn.Module]:
        """The networks, their momentum copy, and the modules of the auxiliary."""
        return super().modules + ([] if self.target is None else [self.target])

    def fuse(self, seconds: Callable[[Compute], float]) -> list[str]:
        """Lets a GPU take several operations at once where that agrees and is faster; returns reasons against."""
        shape, crops = (self._frame_stack, self._facts.image_size, self._facts.image_size), [self._augment.crop]
        reasons = fuse_encoder(crops, self.encoder, self.modules, shape, self._autocast, self._precision, seconds)
        if self.auxiliary is not None:
            reasons |= shadow_weights(self.auxiliary.owned, self.optimizers.values(), self._precision, seconds)
        return [f"{name}: {reason}" for name, reason in reasons.items() if reason]

    def compile(self) -> None:
        networks = [network for module in self.modules for network in module.children()]
        compile_modules([*networks, self._augment.crop], self.device)

    @torch.no_grad()
    def act(self, observation: np.ndarray, step: int, first: bool) -> int:
        """The action for a stack uint8 [frames, H, W] in iteration `step`: epsilon-greedy with the last noise drawn."""
        config = self.config
        ramp = (config.epsilon_initial, config.epsilon_final, config.epsilon_start, config.epsilon_steps)
        if self.exploration.random() < linear_ramp(step, *ramp):
            return int(self.exploration.integers(self.actions))
        pixels = to_device(observation, self.device).unsqueeze(0)
        logits = self.acting["head"](self.acting["encoder"](pixels), self._noise)
        return int(losses.expected_value(logits.softmax(-1), self._support).argmax())

    def begin_update(self, replay: SequenceReplay, step: int, kind: str) -> tuple:
        """The host's share of an update; returns the variant of `update_on_device`."""
        replay.require_window()
        config = self.replay_config
        ramp = (config.beta_initial, config.beta_final, config.beta_start, config.beta_end - config.beta_start)
        self._beta.fill_(linear_ramp(step - 1, *ramp))
        if self.auxiliary is not None:
            self.auxiliary.begin_update(step)
        if self._horizon is not None:
            self._horizon.fill(self.config, self.cycle_updates)
        self.cycle_updates += 1
        return ()

    def update_on_device(self, replay: SequenceReplay) -> dict[str, Tensor]:
        """The part of an update that is a function of tensors alone: draw, learn, write the priorities."""
        reads = self.auxiliary.reads if self.auxiliary is not None else None
        with span("sample"):
            sampling = self.generators["sampling"]
            batch = replay.sample(self.config.batch_size, sampling, self._beta, reads, self._horizon)
        kl, metrics = self.learn(batch)
        with span("sample"):
            replay.update_priorities(batch.indices, kl)
        metrics["beta"] = self._beta
        if self._horizon is not None:
            metrics |= {"n_step": self._horizon.n.float(), "discount": self._horizon.discount.float()}
        return metrics

    def learn(self, batch: SequenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step on `batch`; returns the new priorities' divergences [B] and metrics."""
        with span("rl"):
            self._previous_noise.copy_(self._noise)
            self._noise.copy_(self.head.draw_noise(self.generators["noise"], self.device))
            with self.side.fork():
                target = self._target(batch)
            view = self._augmented(batch.obs, "augmentation_rl")
            latent = self._encode(view)  # [B, D]
            logits = self.head(scale_gradient(latent, self.config.head_gradient_scale), self._noise)  # [B, A, N]
            log_probs = losses.of_action(logits.log_softmax(-1), batch.action)  # [B, N]
        auxiliary_metrics: dict[str, Tensor] = {}
        if self.auxiliary is not None:
            shared = Shared(view=view, latent=latent, weights=batch.weights)
            auxiliary_loss, auxiliary_metrics = whole_loss(self.auxiliary, batch, shared)  # [.., B]
            auxiliary_loss = (auxiliary_loss * batch.weights[: self.auxiliary.reads.sequences]).mean()
            auxiliary_metrics = {"loss": auxiliary_loss} | auxiliary_metrics
        with span("rl"):
            self.side.join()
            rl_loss = (losses.categorical_loss(log_probs, target) * batch.weights).mean()
            loss = rl_loss if self.auxiliary is None else rl_loss + self.auxiliary.weight * auxiliary_loss
        metrics = {"rl_loss": rl_loss} | {f"aux/{name}": value for name, value in auxiliary_metrics.items()}

        with span("optimizer"):
            self.move_targets("before_step")  # with tau 1 they are one update old
        norms: dict[str, Tensor] = {}
        own = [name for name in self.optimizers if name != RL]
        steps = [(adam_leaves(self.optimizers[name]), partial(self._step, name, norms)) for name in own]
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with span("backward"), steps_beside(self.side, steps):
            loss.backward()
        self._step(RL, norms)
        for name, clip in self._clips.items():
            if clip is not None:
                metrics[f"{'' if name == RL else 'aux/'}grad_norm_{name}"] = norms[name]
        if self.target is not None:
            with span("optimizer"):
                momentum_update(self.target, self.networks, self.config.target_tau)

        if self.replay_config.priority == "kl":
            kl = losses.categorical_kl(log_probs, target, self.config.kl_floor, self.config.kl_ceiling)
        else:
            kl = losses.categorical_loss(log_probs, target).detach() + self.replay_config.priority_eps
        with torch.no_grad(), span("rl"):
            q = losses.expected_value(logits.softmax(-1), self._support)  # [B, A]
            spread, dead = latent.std(0, correction=0).mean(), (latent == 0).all(0)  # [], [D]
            self._fresh_spread.copy_(torch.where(self._fresh_spread == 0, spread, self._fresh_spread))
            metrics |= {
                "loss": loss,
                "q_mean": q.mean(),
                "q_max": q.amax(1).mean(),
                "priority": kl.pow(self.replay_config.alpha).mean(),
                "importance_weight": batch.weights.mean(),
                "rl_latent_spread": spread,
                "rl_latent_spread_of_fresh": spread / self._fresh_spread.clamp(min=torch.finfo(spread.dtype).tiny),
                "rl_dead_units": dead.float().mean(),
                "rl_dead_channels": dead.unflatten(0, self._facts.latent_shape).flatten(1).all(1).float().mean(),
            }
        with span("optimizer"):
            self.side.join()
            self.move_targets("after_step")
        return kl, {key: value.detach() for key, value in metrics.items()}

    def _step(self, name: str, norms: dict[str, Tensor]) -> None:
        """Steps an optimiser; `norms` gets the gradient's norm where it has a clip."""
        with span("optimizer"):
            if self._clips[name] is not None:
                norms[name] = clip_in_step(self.optimizers[name], self._clips[name])
            self.optimizers[name].step()

    def end_of_updates(self, step: int) -> dict[str, int]:
        """Resets the networks where iteration `step` ends with a reset; returns its number as an event."""
        number = number_due(self._resets, step)
        if number == 0:
            return {}
        fresh, auxiliary = self._draw("reset", number, "online")
        reset_networks(self._resets, self.networks, fresh)
        if self.target is not None:
            reset_networks(self._resets, self.target, self._draw("reset", number, "target", alone=True)[0])
        if self.auxiliary is not None:
            source = self.networks if self.target is None else self.target
            followed = {"encoder": source["encoder"], "projector": source["head"].projector}
            reset_auxiliary(self._resets, self.auxiliary, auxiliary, followed)
        for optimizer in self.optimizers.values():
            clear_adam(optimizer)
            optimizer.write_shadows()
        self.cycle_updates = 0
        self._fresh_spread.zero_()
        return {"reset": number}

    @torch.no_grad()
    def _target(self, batch: SequenceBatch) -> Tensor:
        """Double DQN: the online network, with this update's noise, chooses; the previous noise values [B, N]."""
        purposes = ("augmentation_next_target", "augmentation_next_online")[: self.config.next_views]
        views = self._augmented(batch.next_obs, *purposes).unflatten(0, (len(purposes), -1))  # [1 or 2, B, ...]
        noises = torch.stack((self._previous_noise, self._noise)).unsqueeze(1)  # [2, 1, noise]
        if self.target is None:
            latents = self._encode(views.flatten(0, 1)).unflatten(0, (len(views), -1)).expand(2, -1, -1)  # [2, B, D]
            target_probs, online_probs = self.head(latents, noises).softmax(-1)
        else:
            online_probs = self.head(self._encode(views[-1]), self._noise).softmax(-1)
            with self._autocast():
                latents = self.target["encoder"](views[0])
            target_probs = self.target["head"](latents, self._previous_noise).softmax(-1)
        chosen = losses.of_action(target_probs, losses.expected_value(online_probs, self._support).argmax(1))
        discount = self.config.discount**self.config.n_step if self._horizon is None else self._horizon.bootstrap()
        return losses.project_distribution(chosen, batch.returns, batch.done, discount, self._support)

    def _encode(self, pixels: Tensor) -> Tensor:
        with self._autocast():
            return self.encoder(pixels)

    def _augmented(self, frames: Tensor, *purposes: str) -> Tensor:
        """A view of frames [B, ...] for each purpose, one behind the other."""
        with span("augment"):
            return joined([self._augment.view(frames, self.generators[purpose]) for purpose in purposes])[...]

    @property
    def acting(self) -> nn.ModuleDict:
        """Networks that acting needs."""
        return self.target if self.config.act_with == "target" else self.networks

    def state(self) -> dict:
        return super().state() | {
            "target": self.target.state_dict() if self.target is not None else {},
            "noise": self._noise,
            "previous_noise": self._previous_noise,
            "cycle_updates": self.cycle_updates,
            "fresh_spread": self._fresh_spread,
        }

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        if self.target is not None:
            self.target.load_state_dict(state["target"])
        self._noise.copy_(state["noise"])
        self._previous_noise.copy_(state["previous_noise"])
        self.cycle_updates = state["cycle_updates"]
        self._fresh_spread.copy_(state["fresh_spread"])


class TrainedAgent:
    """A trained agent with its noise off. `encoder` is frozen: uint8 [B, frames, H, W] -> latents float32 [B, D].

    Raises ConfigError for weights that are damaged or of another configuration.
    """

    def __init__(
        self, config: AgentConfig, observation_shape: tuple[int, ...], weights: Path, device: torch.device | str = "cpu"
    ):
        self.observation_shape, self.device = observation_shape, torch.device(device)

        def make(tensors: dict[str, Tensor]) -> nn.ModuleDict:
            self.actions = len(tensors["head.advantage_out.mean.bias"]) // config.atoms
            self.encoder, self.head = make_networks(config, observation_shape[0], observation_shape[1], self.actions)
            return nn.ModuleDict({"encoder": self.encoder, "head": self.head})

        read_weights(weights, make, self.device)
        self._support = losses.support(config.v_min, config.v_max, config.atoms, self.device)

    @torch.no_grad()
    def q_values(self, observations: np.ndarray | Tensor) -> Tensor:
        """Expected returns float32 [B, A] of stacks uint8 [B, frames, H, W]. Raises ValueError for anything else."""
        pixels = as_pixels(observations, self.observation_shape, self.device)
        return losses.expected_value(self.head(self.encoder(pixels), None).softmax(-1), self._support)

    def act(self, observations: np.ndarray | Tensor) -> np.ndarray:
        """Greedy actions int64 [B] for stacks uint8 [B, frames, H, W]."""
        return self.q_values(observations).argmax(1).cpu().numpy()


def linear_ramp(step: int, start_value: float, end_value: float, start: int, length: int) -> float:
    """`start_value` up to and including `start`, `end_value` from `start + length` on, linear between."""
    share = min(max((step - start) / length, 0.0), 1.0) if length > 0 else float(step > start)
    return start_value + (end_value - start_value) * share
