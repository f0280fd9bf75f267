"""Soft actor-critic with an auxiliary loss: acting, the update, and trained agents for other code.

`B` batch, `b` a slice of it, `T` time, `C, H, W` image, `M, h, w` last map, `D` latent, `A` actions.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from auxiliaries.slot import MOVES, Auxiliary, Host, Shared, loss_in_slices, require_known
from dmcontrol import losses
from dmcontrol.config import RGB, AgentConfig, AuxNetworksConfig, AuxOptimizerConfig, ResetConfig
from dmcontrol.networks import (
    KERNEL,
    Actor,
    CentreCrop,
    PixelEncoder,
    QHeads,
    init_orthogonal,
    init_truncated_normal,
    mlp,
)
from dmcontrol.replay import TransitionBatch, TransitionReplay, WindowBatch
from dmcontrol.resets import number_due, reset
from harness.agent import Agent
from harness.compiled import compile_modules
from harness.config import HostFacts
from harness.convolution import fuse_encoder
from harness.fused import Compute
from harness.optimizers import Adam, adam_parameters, clip_in_step, make_adam
from harness.pixels import as_pixels, to_device
from harness.precision import make_autocast
from harness.seeding import Generators, derive_seed, numpy_generator
from harness.spans import span
from harness.streams import Side
from harness.weights import read_weights
from mlr.augmentation import Augmentation, RandomCrop, View
from mlr.momentum import frozen_copy, momentum_update

Images: TypeAlias = View | Tensor  # tensor or lazy view; a batch slice is pixels [b, C, crop, crop]

# On a CPU images pass through the encoder in slices of this many, each with its backward pass: their maps stay in the
# cache, and those of a whole batch never exist.
CPU_SLICE = 32

GENERATORS = ("sampling", "windows", "crop_obs", "crop_next_obs", "noise_acting", "noise_target", "noise_actor")


class SACAgent(Agent):
    """Actor, two Q heads and one online encoder, trained on transitions; the auxiliary on its own batch.

    The critic owns the encoder. The actor reads its convolutions, without a gradient into them, and has a latent of
    its own. The critic's target encoder and an auxiliary's momentum copies live side by side. `make_auxiliary` makes
    the auxiliary from what the agent lends; the three arguments after it are read only with one, `augment` and
    `aux_networks` only by some.
    """

    def __init__(
        self,
        config: AgentConfig,
        facts: HostFacts,
        *,
        resets: ResetConfig | None,
        frame_stack: int,
        action_size: int,
        random_steps: int,
        make_auxiliary: Callable[[Host], Auxiliary] | None,
        augment: Augmentation | None,
        aux_optimizer: AuxOptimizerConfig | None,
        aux_networks: AuxNetworksConfig | None,
        seed: int,
        precision: str,
        device: torch.device,
    ):
        self.config, self.action_size, self.device = config, action_size, device
        self._random_steps, self._aux_optimizer = random_steps, aux_optimizer
        self._facts, self._frame_stack, self._augment = facts, frame_stack, augment
        self._resets, self._seed, self._make_auxiliary, self._aux_networks = resets, seed, make_auxiliary, aux_networks
        self.generators = Generators(seed, device, GENERATORS)
        self._precision, self._autocast = precision, make_autocast(precision, device)
        self.exploration = numpy_generator(seed, "exploration")
        self._centre_crop = CentreCrop(config.crop_size)
        self._random_crop = RandomCrop(
            facts.image_size, config.crop_size, config.rl_pad, "slice", last_offset=config.rl_crop_last_offset
        )
        self.networks, self.auxiliary = self._draw("parameters")
        if self.auxiliary is not None:
            require_known(self.auxiliary, [*MOVES, "with_targets"], [])
        for module in self.modules:
            module.to(device)
        self.encoder, self.actor, self.q_heads, self.target_encoder, self.target_q_heads = self.networks.values()
        log_temperature = torch.tensor(math.log(config.initial_temperature), dtype=torch.float64, device=device)
        self.log_temperature = nn.Parameter(log_temperature)
        # Further arguments of `update_on_device`, by update. As released, the actor learns on even agent steps.
        self.cycle = ((True,), *[(False,)] * (config.update_every - 1))
        self._updates = 0
        self._auxiliary_updates = torch.zeros((), dtype=torch.int64, device=device)
        self.optimizers = self._make_optimizers()
        self.side = Side()

    def _draw(self, *purpose: str | int) -> tuple[nn.ModuleDict, Auxiliary | None]:
        """Networks with initial weights of their own seed, and an auxiliary on them; no other generator advances."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, *purpose))
            encoder, actor = make_acting_networks(self.config, self._frame_stack, self.action_size)
            q_heads = QHeads(self.config, self.action_size)
            for module in (encoder, actor, q_heads):
                init_orthogonal(module)
            targets = {"target_encoder": frozen_copy(encoder), "target_q_heads": frozen_copy(q_heads)}
            auxiliary, networks = None, self._aux_networks
            if self._make_auxiliary is not None:
                auxiliary = self._make_auxiliary(self._host(encoder))
                if networks is not None and networks.redraw:  # also in momentum copies, apart from the encoder's (F7)
                    for module in (encoder, *auxiliary.targets.values()):
                        init_truncated_normal(getattr(module, "latent", module), networks.init_std)
        return nn.ModuleDict({"encoder": encoder, "actor": actor, "q_heads": q_heads, **targets}), auxiliary

    def _host(self, encoder: PixelEncoder) -> Host:
        facts, augment, networks = self._facts, self._augment, self._aux_networks
        return Host(
            facts=facts,
            encoder=encoder,
            renormalize=lambda latent: latent,
            layers=[[(KERNEL, stride, 0)] for stride in self.config.encoder.strides],
            projector=None,
            projected_dim=facts.latent_dim,
            actions=self.action_size,
            head=lambda inputs, outputs: mlp(inputs, networks.projection, outputs),
            embed_actions=lambda width: nn.Linear(self.action_size, width),
            frame_channels=RGB,
            view_channels=RGB * self._frame_stack,
            view_size=self.config.crop_size,
            augment=augment.to(self.device).view if augment is not None else None,
            augment_rl=self._cropped,
            autocast=self._autocast,
            device=self.device,
            seed=self._seed,
            own_step=True,
            clip_norm=self._aux_optimizer.clip_norm,
            encoder_rate_factor=self._aux_optimizer.encoder_rate_factor,
            initialise=init_orthogonal
            if networks is None
            else lambda module: init_truncated_normal(module, networks.init_std),
        )

    def _make_optimizers(self) -> dict[str, Adam]:
        """The auxiliary's Adam steps the critic's encoder a second time, with moments of its own (F12)."""
        config = self.config
        betas, eps = (config.adam_beta1, config.adam_beta2), config.adam_eps
        temperature_betas = (config.temperature_beta1, config.adam_beta2)
        critic = [*self.encoder.parameters(), *self.q_heads.parameters()]
        optimizers = {
            "critic": make_adam(critic, config.learning_rate, betas, eps),
            "actor": make_adam(self.actor.parameters(), config.learning_rate, betas, eps),
            "temperature": make_adam([self.log_temperature], config.temperature_learning_rate, temperature_betas, eps),
        }
        if self.auxiliary is not None:
            self._auxiliary_rates = [torch.zeros((), device=self.device) for _ in self.auxiliary.groups]
            groups = [
                {"params": group.parameters, "lr": rate, "weight_decay": group.weight_decay}
                for group, rate in zip(self.auxiliary.groups, self._auxiliary_rates, strict=True)
            ]
            clipped = self.auxiliary.groups[0].clip is not None  # one clip for the step of all groups
            optimizers["auxiliary"] = make_adam(groups, 0.0, betas, eps, clipped=clipped)
        return optimizers

    def fuse(self, seconds: Callable[[Compute], float]) -> list[str]:
        """Lets a GPU take several operations at once where that agrees and is faster; returns reasons against."""
        shape = (RGB * self._frame_stack, self._facts.image_size, self._facts.image_size)
        crops = [self._random_crop, *([self._augment.crop] if self._augment is not None else [])]
        reasons = fuse_encoder(crops, self.encoder, self.modules, shape, self._autocast, self._precision, seconds)
        return [f"{name}: {reason}" for name, reason in reasons.items() if reason]

    def compile(self) -> None:
        modules = [self.actor, self.q_heads, self.target_q_heads, self._random_crop]
        modules += [*self.encoder.children(), *self.target_encoder.children()]
        modules += [] if self._augment is None else [self._augment.crop]
        if self.auxiliary is not None:
            modules += [*self.auxiliary.owned.values(), *self.auxiliary.targets.values()]
        compile_modules(modules, self.device)

    @torch.no_grad()
    def act(self, observation: np.ndarray, step: int, first: bool) -> np.ndarray:
        """The action float32 [A] for uint8 [C, H, W] in iteration `step`: uniform at first, then a policy's sample."""
        if step < self._random_steps:
            return self.exploration.uniform(-1, 1, self.action_size).astype(np.float32)
        pixels = to_device(observation, self.device).unsqueeze(0)
        mean, log_std = self.actor(self.encoder.convolutions(self._centre_crop(pixels)))
        action, _ = self._squashed_sample(mean, log_std, "noise_acting")
        return action[0].cpu().numpy()

    def begin_update(self, replay: TransitionReplay, step: int, kind: str) -> tuple:
        """The host's share of an update; returns the variant of `update_on_device`."""
        replay.require_transition()
        if self.auxiliary is not None:
            if self.auxiliary.reads.source == "windows":
                replay.require_window()
            self.auxiliary.begin_update(step)
        variant = self.cycle[self._updates % len(self.cycle)]
        self._updates += 1
        return variant

    def update_on_device(self, replay: TransitionReplay, with_actor: bool) -> dict[str, Tensor]:
        """The part of an update that, for either `with_actor`, is a function of tensors alone.

        Critic, then auxiliary, then, `with_actor`, actor, temperature and all target networks (F13).
        """
        with span("sample"):
            batch = replay.sample(self.config.batch_size, self.generators["sampling"])
        obs, next_obs = self._views(batch.obs, "crop_obs"), self._views(batch.next_obs, "crop_next_obs")
        metrics = self._update_critic(batch, obs, next_obs)
        metrics |= self._update_auxiliary("after_critic", replay, batch, obs[0])
        if with_actor:
            metrics |= self._update_actor(obs[0])
            self._update_targets()
        metrics |= self._update_auxiliary("after_targets", replay, batch, obs[0])
        return {key: value.detach() for key, value in metrics.items()}

    def _update_critic(self, batch: TransitionBatch, obs: list[Images], next_obs: list[Images]) -> dict[str, Tensor]:
        """Steps on the sum of the losses of all views `obs`; the target is the mean over the views `next_obs`."""
        with span("rl"), self.side.fork():
            target = losses.mean_target([self.q_target(batch, view) for view in next_obs])
        optimizer, loss = self.optimizers["critic"], torch.zeros((), device=self.device)
        optimizer.zero_grad(set_to_none=True)
        values = []
        for view in obs:
            q = self._critic_gradient(batch, view, target)
            loss = loss + losses.critic_loss(q, target)
            values.append(q)
        with span("optimizer"):
            optimizer.step()
        return {"critic_loss": loss, "q_mean": torch.cat(values, dim=1).mean(), "q_target_mean": target.mean()}

    def _critic_gradient(self, batch: TransitionBatch, view: Images, target: Tensor) -> Tensor:
        """Adds the gradient of a view's loss, slice by slice; returns the action values [2, B]."""
        values = []
        for samples in self._slices(len(view)):
            with span("rl"):
                q = self.q(self._pixels(view, samples), batch.action[samples])
                self.side.join()
                loss = losses.critic_loss(q, target[samples])
            with span("backward"):
                (q.shape[1] / len(target) * loss).backward()
            values.append(q.detach())
        return torch.cat(values, dim=1)

    def q(self, pixels: Tensor, action: Tensor) -> Tensor:
        """Action values [2, B] of cropped pixels; their gradient reaches the whole encoder."""
        return self.q_heads(self._encode(self.encoder, pixels), action)

    @torch.no_grad()
    def q_target(self, batch: TransitionBatch, next_obs: Images) -> Tensor:
        """Targets [B] of the values of `batch`, from the cropped pixels that followed."""
        outputs = []
        for samples in self._slices(len(next_obs)):
            pixels = self._pixels(next_obs, samples)
            policy = self.actor(self._encode(self.encoder.convolutions, pixels))
            outputs.append((*policy, self._encode(self.target_encoder, pixels)))
        mean, log_std, latent = (torch.cat(slices) for slices in zip(*outputs, strict=True))
        action, log_prob = self._squashed_sample(mean, log_std, "noise_target")
        next_q = self.target_q_heads(latent, action)
        temperature, discount = self.log_temperature.exp(), self.config.discount
        return losses.q_target(batch.reward, batch.bootstrap, next_q, log_prob, temperature, discount)

    def _update_auxiliary(
        self, place: str, replay: TransitionReplay, transitions: TransitionBatch, obs: Images
    ) -> dict[str, Tensor]:
        """The auxiliary's own step, if it comes at this place of the update."""
        auxiliary, config = self.auxiliary, self._aux_optimizer
        if auxiliary is None or auxiliary.when != place:
            return {}
        batch: TransitionBatch | WindowBatch = transitions
        count, images = len(transitions.action), 1
        if auxiliary.reads.source == "windows":
            with span("sample"):
                batch = replay.windows(config.batch_size, self.generators["windows"], auxiliary.reads)
            count, images = config.batch_size, auxiliary.reads.steps
        factor = losses.learning_rate_factor(self._auxiliary_updates, config.warmup_updates, config.warmup_start)
        for group, rate in zip(auxiliary.groups, self._auxiliary_rates, strict=True):
            rate.copy_(config.learning_rate * factor * group.rate_factor)

        def backward(loss: Tensor) -> None:
            """Adds the share of a slice's loss [.., b] to the gradient."""
            with span("backward"):
                (loss.shape[1] / count * auxiliary.weight * loss.mean()).backward()

        optimizer = self.optimizers["auxiliary"]
        optimizer.zero_grad(set_to_none=True)
        shared = Shared(view=obs, target_encoder=self.target_encoder)
        loss, metrics = loss_in_slices(auxiliary, batch, shared, self._slices(count, images), backward)
        metrics = {"loss": loss.mean(), "learning_rate": self._auxiliary_rates[-1].clone()} | metrics
        with span("optimizer"):
            self.move_targets("before_step")
            if (clip := auxiliary.groups[0].clip) is not None:
                metrics["grad_norm"] = clip_in_step(optimizer, clip)
            optimizer.step()
            self.move_targets("after_step")
        self._auxiliary_updates.add_(1)
        return {f"aux/{name}": value for name, value in metrics.items()}

    def _update_actor(self, obs: Images) -> dict[str, Tensor]:
        with span("rl"):
            q, log_prob = self.q_of_policy(obs)
        temperature = self.log_temperature.exp().detach()
        loss = losses.actor_loss(q, log_prob, temperature)
        self._step_alone("actor", loss)
        temperature_loss = losses.temperature_loss(self.log_temperature, log_prob, target_entropy=-self.action_size)
        self._step_alone("temperature", temperature_loss)
        return {
            "actor_loss": loss,
            "entropy": -log_prob.mean(),
            "temperature": temperature.float(),
            "temperature_loss": temperature_loss,
        }

    def q_of_policy(self, obs: Images) -> tuple[Tensor, Tensor]:
        """Action values [2, B] and log-probabilities [B] of the policy's own actions for cropped pixels.

        Actor and critic share the convolutions, and neither loss reaches them: one pass without gradient serves both.
        """
        with torch.no_grad():
            slices = self._slices(len(obs))
            maps = [self._encode(self.encoder.convolutions, self._pixels(obs, samples)) for samples in slices]
        maps = maps[0] if len(maps) == 1 else torch.cat(maps)  # [B, M, h, w]; on a GPU a copy of 160 MB less
        mean, log_std = self.actor(maps)
        action, log_prob = self._squashed_sample(mean, log_std, "noise_actor")
        return self.q_heads(self.encoder.latent(maps), action), log_prob

    def _step_alone(self, name: str, loss: Tensor) -> None:
        """Steps one optimiser on a loss whose gradient for other parameters is not wanted."""
        optimizer = self.optimizers[name]
        with span("backward"):
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=adam_parameters(optimizer))
        with span("optimizer"):
            optimizer.step()

    def end_of_updates(self, step: int) -> dict[str, int]:
        """Resets the networks where iteration `step` ends with a reset; returns its number as an event."""
        number = number_due(self._resets, step)
        if number == 0:
            return {}
        fresh = self._draw("reset", number)
        reset(self._resets.scope, self.networks, self.auxiliary, *fresh, self.optimizers.values())
        with torch.no_grad():
            self.log_temperature.fill_(math.log(self.config.initial_temperature))
            if self._resets.scope == "all":
                self._auxiliary_updates.zero_()  # restarts the auxiliary's learning rate schedule
        return {"reset": number}

    def _update_targets(self) -> None:
        with span("optimizer"):
            momentum_update(self.target_encoder, self.encoder, self.config.critic_encoder_tau)
            momentum_update(self.target_q_heads, self.q_heads, self.config.critic_tau)
            self.move_targets("with_targets")

    def _encode(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Output float32 of the encoder, a copy of it, or its convolutions alone."""
        with self._autocast():
            return network(pixels).float()

    def _views(self, images: Tensor, purpose: str) -> list[Images]:
        """Views of a batch, each drawn on its own; on a GPU as pixels, which several losses read."""
        views = [self._cropped(images, self.generators[purpose]) for _ in range(self.config.rl_views)]
        if self.device.type == "cpu":
            return views
        return [self._pixels(view, slice(None)) for view in views]

    def _cropped(self, images: Tensor, generator: torch.Generator) -> Images:
        with span("augment"):
            offsets = self._random_crop.draw(len(images), generator, images.device)
        return View(self._random_crop, images, offsets)

    def _pixels(self, images: Images, samples: slice) -> Tensor:
        with span("augment"):
            return images[samples]

    def _slices(self, count: int, images: int = 1) -> Iterator[slice]:
        """Slices of `count` samples of `images` images each that pass through the encoder at once: on a GPU all."""
        size = max(CPU_SLICE // images, 1) if self.device.type == "cpu" else count
        return (slice(start, start + size) for start in range(0, count, size))

    def _squashed_sample(self, mean: Tensor, log_std: Tensor, purpose: str) -> tuple[Tensor, Tensor]:
        return losses.squashed_sample(mean, log_std, self._noise(mean, purpose), self.config.log_prob_floor)

    def _noise(self, like: Tensor, purpose: str) -> Tensor:
        return torch.randn(like.shape, generator=self.generators[purpose], device=like.device)

    @property
    def acting(self) -> nn.ModuleDict:
        """Networks that acting needs, and the encoder's latent."""
        return nn.ModuleDict({"encoder": self.encoder, "actor": self.actor})

    def state(self) -> dict:
        return super().state() | {
            "log_temperature": self.log_temperature.detach(),
            "updates": self._updates,
            "auxiliary_updates": self._auxiliary_updates,
        }

    @torch.no_grad()
    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self.log_temperature.copy_(state["log_temperature"])
        self._updates = state["updates"]
        self._auxiliary_updates.copy_(state["auxiliary_updates"])


class TrainedAgent:
    """A trained agent without its noise. `encoder` is frozen: uint8 [B, C, H, W] as rendered -> latents float32 [B, D].

    Raises ConfigError for weights that are damaged or of another configuration.
    """

    def __init__(
        self, config: AgentConfig, observation_shape: tuple[int, ...], weights: Path, device: torch.device | str = "cpu"
    ):
        self.observation_shape, self.device = observation_shape, torch.device(device)

        def make(tensors: dict[str, Tensor]) -> nn.ModuleDict:
            self.action_size = len(tensors["actor.policy.4.bias"]) // 2  # mean and deviation
            encoder, actor = make_acting_networks(config, observation_shape[0] // RGB, self.action_size)
            return nn.ModuleDict({"encoder": encoder, "actor": actor})

        encoder, actor = read_weights(weights, make, self.device).values()
        crop = CentreCrop(config.crop_size)
        self.encoder = nn.Sequential(crop, encoder).eval()
        self._policy = nn.Sequential(crop, encoder.convolutions, actor)

    @torch.no_grad()
    def act(self, observations: np.ndarray | Tensor) -> np.ndarray:
        """The mean's actions float32 [B, A] for stacks uint8 [B, C, H, W]. Raises ValueError for anything else."""
        mean, _ = self._policy(as_pixels(observations, self.observation_shape, self.device))
        return mean.tanh().cpu().numpy()


def make_acting_networks(config: AgentConfig, frame_stack: int, action_size: int) -> tuple[PixelEncoder, Actor]:
    encoder = PixelEncoder(config.encoder, RGB * frame_stack, config.crop_size)
    return encoder, Actor(config, encoder.convolutions.out_features, action_size)
