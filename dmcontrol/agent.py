"""Soft actor-critic with an auxiliary loss: acting, the update, and trained agents for other code.

`B` batch, `b` a piece of it, `T` time, `C, H, W` image, `M, h, w` last map, `D` latent, `A` actions.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dmcontrol import losses
from dmcontrol.config import RGB, DMControlConfig
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
from harness.optimizers import adam_parameters, adam_state, clip_in_step, load_adam_state, make_adam
from harness.precision import Autocast, make_autocast
from harness.run_folder import RunFolder, load_config
from harness.seeding import Generators, derive_seed, numpy_generator
from harness.spans import span
from harness.weights import read_weights, write_weights
from mlr.augmentation import Augmentation, RandomCrop, View
from mlr.cells import Hidden, hidden_by
from mlr.decoder import reads_actions
from mlr.masking import sample_mask
from mlr.momentum import frozen_copy, momentum_update
from mlr.objective import MLR, PixelMLR

Images = View | Tensor  # of which a slice is pixels [b, C, crop, crop]

# On a CPU images pass through the encoder in pieces of this many, each with its backward pass: their maps stay in the
# cache, and those of a whole batch never exist.
CPU_PIECE = 32

GENERATORS = (
    "sampling",
    "windows",
    "crop_obs",
    "crop_next_obs",
    "noise_acting",
    "noise_target",
    "noise_actor",
    "mask",
    "augmentation_mlr_target",
    "augmentation_mlr_masked",
)


class SACAgent:
    """Actor, two Q heads and one online encoder, trained on transitions; the auxiliary on windows (docs/protocol.md).

    The critic owns the encoder. The actor reads its convolutions, without a gradient into them, and has a latent of
    its own. The critic's target encoder and the auxiliary's momentum encoder live side by side.
    """

    variants = ((True,), (False,))  # further arguments of `update_on_device`

    def __init__(self, config: DMControlConfig, action_size: int, device: torch.device):
        self.config, self.action_size, self.device = config, action_size, device
        agent = config.agent
        self.generators = Generators(config.seed, device, GENERATORS)
        self._autocast = make_autocast(config.precision, device)
        self._exploration = numpy_generator(config.seed, "exploration")
        self._centre_crop = CentreCrop(agent.crop_size)
        self._random_crop = RandomCrop(
            config.environment.image_size, agent.crop_size, pad=0, mode="slice", last_offset=agent.rl_crop_last_offset
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "parameters"))
            self.encoder, self.actor = make_acting_networks(config, action_size)
            self.q_heads = QHeads(agent, action_size)
            for module in (self.encoder, self.actor, self.q_heads):
                init_orthogonal(module)
            self.target_encoder, self.target_q_heads = frozen_copy(self.encoder), frozen_copy(self.q_heads)
            self.auxiliary = None
            if config.aux == "mlr":
                self.auxiliary = make_mlr(config, self.encoder, action_size, self.generators, self._autocast)
                self.auxiliary.owned.to(device)
                self.auxiliary.targets.to(device)
        names = ("encoder", "actor", "q_heads", "target_encoder", "target_q_heads")
        self.networks = nn.ModuleDict({name: getattr(self, name) for name in names})
        if self.auxiliary is not None:
            self.networks["projector"] = self.auxiliary.projector
        self.networks.to(device)
        log_temperature = torch.tensor(math.log(agent.initial_temperature), dtype=torch.float64, device=device)
        self.log_temperature = nn.Parameter(log_temperature)
        self._updates = 0
        self._auxiliary_updates = torch.zeros((), dtype=torch.int64, device=device)
        self._auxiliary_learning_rate = torch.zeros((), device=device)
        self.optimizers = self._make_optimizers()

    def _make_optimizers(self) -> dict[str, torch.optim.Adam]:
        """The auxiliary's Adam steps the critic's encoder a second time, with moments of its own (F12)."""
        agent = self.config.agent
        betas, eps = (agent.adam_beta1, agent.adam_beta2), agent.adam_eps
        temperature_betas = (agent.temperature_beta1, agent.adam_beta2)
        critic = [*self.encoder.parameters(), *self.q_heads.parameters()]
        optimizers = {
            "critic": make_adam(critic, agent.learning_rate, betas, eps),
            "actor": make_adam(self.actor.parameters(), agent.learning_rate, betas, eps),
            "temperature": make_adam([self.log_temperature], agent.temperature_learning_rate, temperature_betas, eps),
        }
        if self.auxiliary is not None:
            borrowed = (self.encoder, self.auxiliary.projector)
            parameters = [p for module in borrowed for p in module.parameters()] + self.auxiliary.owned_parameters()
            rate = self._auxiliary_learning_rate
            optimizers["auxiliary"] = make_adam(parameters, rate, betas, eps, clipped=True)
        return optimizers

    def trained_parameters(self) -> list[nn.Parameter]:
        """What any optimiser steps, each once."""
        return list(dict.fromkeys(p for optimizer in self.optimizers.values() for p in adam_parameters(optimizer)))

    @property
    def cycle(self) -> int:
        """Updates after which those with the actor and those without come in the same order again."""
        return self.config.agent.update_every

    @torch.no_grad()
    def act(self, observation: np.ndarray, step: int, first: bool) -> np.ndarray:
        """The action float32 [A] for uint8 [C, H, W] in iteration `step`: uniform at first, then a policy's sample."""
        if step < self.config.loop.learning_starts:
            return self._exploration.uniform(-1, 1, self.action_size).astype(np.float32)
        pixels = torch.from_numpy(observation).to(self.device).unsqueeze(0)
        mean, log_std = self.actor(self.encoder.convolutions(self._centre_crop(pixels)))
        action, _ = losses.squashed_sample(mean, log_std, self._noise(mean, "noise_acting"))
        return action[0].cpu().numpy()

    def update(self, replay: TransitionReplay, step: int, kind: str) -> dict[str, Tensor]:
        """One update in iteration `step` on batches of `replay`; returns its metrics as 0-d tensors."""
        replay.require_transition()
        if self.auxiliary is not None:
            replay.require_window()
        with_actor = self._updates % self.config.agent.update_every == 0  # as released, these are the even agent steps
        self._updates += 1
        return self.update_on_device(replay, with_actor)

    def update_on_device(self, replay: TransitionReplay, with_actor: bool) -> dict[str, Tensor]:
        """The part of an update that, for either `with_actor`, is a function of tensors alone.

        Critic, then auxiliary, then, `with_actor`, actor, temperature and all target networks (F13).
        """
        with span("sample"):
            batch = replay.sample(self.config.agent.batch_size, self.generators["sampling"])
        obs, next_obs = self._cropped(batch.obs, "crop_obs"), self._cropped(batch.next_obs, "crop_next_obs")
        metrics = self._update_critic(batch, obs, next_obs)
        if self.auxiliary is not None:
            with span("sample"):
                batch_size, generator = self.config.mlr_agent.batch_size, self.generators["windows"]
                windows = replay.windows(batch_size, generator, self.auxiliary.fields)
            metrics |= self._update_auxiliary(windows)
        if with_actor:
            metrics |= self._update_actor(obs)
            self._update_targets()
        return {key: value.detach() for key, value in metrics.items()}

    def _update_critic(self, batch: TransitionBatch, obs: Images, next_obs: Images) -> dict[str, Tensor]:
        with span("rl"):
            target = self.q_target(batch, next_obs)
        optimizer, pieces = self.optimizers["critic"], []
        optimizer.zero_grad(set_to_none=True)
        for part in self._parts(len(obs)):
            with span("rl"):
                q = self.q(self._pixels(obs, part), batch.action[part])
                loss = losses.critic_loss(q, target[part])
            with span("backward"):
                (q.shape[1] / len(target) * loss).backward()
            pieces.append(q.detach())
        with span("optimizer"):
            optimizer.step()
        q = torch.cat(pieces, dim=1)
        return {"critic_loss": losses.critic_loss(q, target), "q_mean": q.mean(), "q_target_mean": target.mean()}

    def q(self, pixels: Tensor, action: Tensor) -> Tensor:
        """Action values [2, B] of cropped pixels; their gradient reaches the whole encoder."""
        return self.q_heads(self._encode(self.encoder, pixels), action)

    @torch.no_grad()
    def q_target(self, batch: TransitionBatch, next_obs: Images) -> Tensor:
        """What the values of `batch` should be [B], from the cropped pixels that followed."""
        outputs = []
        for part in self._parts(len(next_obs)):
            pixels = self._pixels(next_obs, part)
            policy = self.actor(self._encode(self.encoder.convolutions, pixels))
            outputs.append((*policy, self._encode(self.target_encoder, pixels)))
        mean, log_std, latent = (torch.cat(pieces) for pieces in zip(*outputs, strict=True))
        action, log_prob = losses.squashed_sample(mean, log_std, self._noise(mean, "noise_target"))
        next_q = self.target_q_heads(latent, action)
        temperature, discount = self.log_temperature.exp(), self.config.agent.discount
        return losses.q_target(batch.reward, batch.bootstrap, next_q, log_prob, temperature, discount)

    def _update_auxiliary(self, windows: WindowBatch) -> dict[str, Tensor]:
        config = self.config.mlr_agent
        factor = losses.learning_rate_factor(self._auxiliary_updates, config.warmup_updates, config.warmup_start)
        self._auxiliary_learning_rate.copy_(config.learning_rate * factor)
        steps, count = windows.frames.shape[:2]

        def backward(loss: Tensor) -> None:
            """Adds a piece's share [T, b] of the gradient."""
            with span("backward"):
                (loss.shape[1] / count * self.config.mlr.weight * loss.mean()).backward()

        optimizer = self.optimizers["auxiliary"]
        optimizer.zero_grad(set_to_none=True)
        loss, metrics = self.auxiliary.loss_in_pieces(windows, self._parts(count, images=steps), backward)
        with span("optimizer"):
            norm = clip_in_step(optimizer, config.clip_norm)
            optimizer.step()
        self._auxiliary_updates.add_(1)
        return {
            "mlr_loss": loss.mean(),
            "mlr_grad_norm": norm,
            "mlr_learning_rate": self._auxiliary_learning_rate.clone(),
            **metrics,
        }

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
            parts = self._parts(len(obs))
            pieces = [self._encode(self.encoder.convolutions, self._pixels(obs, part)) for part in parts]
        maps = pieces[0] if len(pieces) == 1 else torch.cat(pieces)  # [B, M, h, w]; on a GPU a copy of 160 MB less
        mean, log_std = self.actor(maps)
        action, log_prob = losses.squashed_sample(mean, log_std, self._noise(mean, "noise_actor"))
        return self.q_heads(self.encoder.latent(maps), action), log_prob

    def _step_alone(self, name: str, loss: Tensor) -> None:
        """Steps one optimiser on a loss whose gradient for other parameters is not wanted."""
        optimizer = self.optimizers[name]
        with span("backward"):
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=adam_parameters(optimizer))
        with span("optimizer"):
            optimizer.step()

    def _update_targets(self) -> None:
        with span("optimizer"):
            momentum_update(self.target_encoder, self.encoder, self.config.agent.critic_encoder_tau)
            momentum_update(self.target_q_heads, self.q_heads, self.config.agent.critic_tau)
            if self.auxiliary is not None:
                self.auxiliary.update_targets()

    def _encode(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """What the encoder, a copy of it, or its convolutions alone give, float32."""
        with self._autocast():
            return network(pixels).float()

    def _cropped(self, images: Tensor, purpose: str) -> Images:
        with span("augment"):
            offsets = self._random_crop.draw(len(images), self.generators[purpose], images.device)
        return View(self._random_crop, images, offsets)

    def _pixels(self, images: Images, part: slice) -> Tensor:
        with span("augment"):
            return images[part]

    def _parts(self, count: int, images: int = 1) -> Iterator[slice]:
        """What of a batch of `count` times `images` passes through the encoder at once: on a GPU all of it."""
        size = max(CPU_PIECE // images, 1) if self.device.type == "cpu" else count
        return (slice(start, start + size) for start in range(0, count, size))

    def _noise(self, like: Tensor, purpose: str) -> Tensor:
        return torch.randn(like.shape, generator=self.generators[purpose], device=like.device)

    def save_weights(self, path: Path) -> None:
        """Writes what acting needs and the encoder's latent; the rest stays in the checkpoints."""
        write_weights(nn.ModuleDict({"encoder": self.encoder, "actor": self.actor}), path)

    def state(self) -> dict:
        return {
            "networks": self.networks.state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "auxiliary": self.auxiliary.state() if self.auxiliary is not None else {},
            "updates": self._updates,
            "auxiliary_updates": self._auxiliary_updates,
            "optimizers": {name: adam_state(optimizer) for name, optimizer in self.optimizers.items()},
            "generators": self.generators.state(),
            "exploration": self._exploration.bit_generator.state,
        }

    @torch.no_grad()
    def load_state(self, state: dict) -> None:
        self.networks.load_state_dict(state["networks"])
        self.log_temperature.copy_(state["log_temperature"])
        if self.auxiliary is not None:
            self.auxiliary.load_state(state["auxiliary"])
        self._updates = state["updates"]
        self._auxiliary_updates.copy_(state["auxiliary_updates"])
        for name, optimizer in self.optimizers.items():
            load_adam_state(optimizer, state["optimizers"][name])
        self.generators.load_state(state["generators"])
        self._exploration.bit_generator.state = state["exploration"]


class TrainedAgent:
    """A trained agent without its noise. `encoder` is frozen: uint8 [B, C, H, W] as rendered -> latents float32 [B, D].

    Raises ConfigError for weights that are damaged or of another configuration.
    """

    def __init__(self, config: DMControlConfig, weights: Path, device: torch.device | str = "cpu"):
        self.config, self.device = config, torch.device(device)

        def make(tensors: dict[str, Tensor]) -> nn.ModuleDict:
            self.action_size = len(tensors["actor.policy.4.bias"]) // 2  # mean and deviation
            encoder, actor = make_acting_networks(config, self.action_size)
            return nn.ModuleDict({"encoder": encoder, "actor": actor})

        encoder, actor = read_weights(weights, make, self.device).values()
        crop = CentreCrop(config.agent.crop_size)
        self.encoder = nn.Sequential(crop, encoder)
        self._policy = nn.Sequential(crop, encoder.convolutions, actor)

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """The mean's actions float32 [B, A] for stacks uint8 [B, C, H, W]. Raises ValueError for anything else."""
        expected = self.config.observation_shape
        if observations.dtype != np.uint8 or observations.shape[1:] != expected:
            raise ValueError(f"expected uint8 [B, {expected}], got {observations.dtype} {observations.shape}")
        mean, _ = self._policy(torch.from_numpy(observations).to(self.device))
        return mean.tanh().cpu().numpy()


def load_agent(run: str | Path, device: torch.device | str = "cpu", agent_steps: int | None = None) -> TrainedAgent:
    """The agent of the run folder `run` with its newest weights, or those after `agent_steps`.

    Raises ConfigError if there are none.
    """
    return TrainedAgent(load_config(run, DMControlConfig), RunFolder(run).saved_weights(agent_steps), device)


def make_acting_networks(config: DMControlConfig, action_size: int) -> tuple[PixelEncoder, Actor]:
    encoder = PixelEncoder(config.agent.encoder, RGB * config.environment.frame_stack, config.agent.crop_size)
    return encoder, Actor(config.agent, encoder.convolutions.out_features, action_size)


def make_mlr(
    config: DMControlConfig, encoder: PixelEncoder, action_size: int, generators: Generators, autocast: Autocast
) -> MLR:
    """MLR on the encoder's latents, with a projector of its own (paper, section 3).

    With `mlr_agent.redraw` it also draws the encoder's fc anew, and the momentum copies' differently (F7).
    """
    mlr, image_size, latent = config.mlr, config.environment.image_size, config.agent.encoder.latent
    crop_size, projection, std = config.agent.crop_size, config.mlr_agent.projection, config.mlr_agent.init_std
    augment = Augmentation(config.augmentation, image_size, crop_size).to(generators["mask"].device)
    projector = mlp(latent, projection, latent) if mlr.projector and mlr.target == "latent" else nn.Identity()
    init_truncated_normal(projector, std)
    parts = {
        "encoder": encoder,
        "projector": projector,
        "action_embedding": nn.Linear(action_size, latent) if reads_actions(mlr) else None,
        "latent_dim": latent,
        "mask": lambda: sample_mask(mlr.mask, mlr.seq_len, image_size, generators["mask"], generators["mask"].device),
        "augment_masked": lambda frames: augment.view(frames, generators["augmentation_mlr_masked"]),
        "augment_target": lambda frames: augment.view(frames, generators["augmentation_mlr_target"]),
        "autocast": autocast,
    }
    if mlr.target == "pixel":
        head = nn.Linear(latent, RGB * crop_size**2)
        objective = PixelMLR(mlr, predictor=head, frame_channels=RGB, **parts)
    else:
        predictor = mlp(latent, projection, latent) if mlr.predictor else nn.Identity()
        objective = MLR(mlr, predictor=predictor, **parts)
    init_truncated_normal(objective.owned, std)
    if config.mlr_agent.redraw:
        init_truncated_normal(encoder.latent, std)
        for target in objective.targets.values():
            init_truncated_normal(getattr(target, "latent", target), std)
    return objective


def hidden_shares(config: DMControlConfig) -> Hidden:
    """How much of its input the masked branch misses."""
    layers = [(KERNEL, stride) for stride in config.agent.encoder.strides]
    return hidden_by(config.mlr, config.environment.image_size, config.agent.crop_size, layers)
