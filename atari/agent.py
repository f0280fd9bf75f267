"""Rainbow with an auxiliary loss: acting, the update, and trained agents for other code.

`B` batch, `T` time, `A` actions, `N` atoms, `D` latent.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from atari import losses
from atari.config import AtariConfig
from atari.networks import ActionEmbedding, DuelingHead, Encoder, HeadProjector, scale_gradient
from atari.replay import SequenceBatch, SequenceReplay
from harness.optimizers import adam_parameters, adam_state, clip_in_step, load_adam_state, make_adam
from harness.precision import Autocast, make_autocast
from harness.run_folder import RunFolder, load_config
from harness.seeding import Generators, derive_seed, numpy_generator
from harness.spans import span
from harness.weights import read_weights, write_weights
from mlr.augmentation import Augmentation
from mlr.cells import Hidden, hidden_by
from mlr.decoder import reads_actions
from mlr.masking import sample_mask
from mlr.objective import MLR, PixelMLR

GENERATORS = (
    "sampling",
    "noise",
    "mask",
    "augmentation_rl",
    "augmentation_mlr_target",
    "augmentation_mlr_masked",
    "augmentation_next_target",
    "augmentation_next_online",
)


class RainbowAgent:
    """Encoder and noisy dueling C51 head, trained with double DQN on prioritised sequences (docs/protocol.md).

    The target network is the online network before the step with the noise of the update before: it needs no copy.
    """

    variants = ((),)  # further arguments of `update_on_device`
    cycle = 1  # updates, all of one kind

    def __init__(self, config: AtariConfig, actions: int, device: torch.device):
        self.config, self.actions, self.device = config, actions, device
        self.generators = Generators(config.seed, device, GENERATORS)
        self._autocast = make_autocast(config.precision, device)
        self._exploration = numpy_generator(config.seed, "exploration")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "parameters"))
            self.encoder, self.head = make_networks(config, actions)
            self._augment = make_augmentation(config).to(device)
            self.auxiliary = None
            if config.aux == "mlr":
                self.auxiliary = make_mlr(
                    config, self.encoder, self.head, self._augment, self.generators, self._autocast
                )
                self.auxiliary.owned.to(device)
                self.auxiliary.targets.to(device)
        self.networks = nn.ModuleDict({"encoder": self.encoder, "head": self.head}).to(device)
        self._support = losses.support(config.agent.v_min, config.agent.v_max, config.agent.atoms, device)
        self._noise = self.head.draw_noise(self.generators["noise"], device)
        self._previous_noise = self._noise.clone()
        self._beta = torch.zeros((), device=device)
        groups = {"encoder_head": list(self.networks.parameters())}
        if self.auxiliary is not None:
            # Only the blocks are clipped; predictor and action embedding are not (F15).
            groups["decoder"] = list(self.auxiliary.owned["decoder"].parameters())
            blocks = set(groups["decoder"])
            groups["unclipped"] = [p for p in self.auxiliary.owned_parameters() if p not in blocks]
        agent = config.agent
        betas = (agent.adam_beta1, agent.adam_beta2)
        self.optimizers = {
            name: make_adam(parameters, agent.learning_rate, betas, agent.adam_eps, clipped=name != "unclipped")
            for name, parameters in groups.items()
            if parameters
        }

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for optimizer in self.optimizers.values() for parameter in adam_parameters(optimizer)]

    @torch.no_grad()
    def act(self, observation: np.ndarray, step: int, first: bool) -> int:
        """The action for a stack uint8 [frames, H, W] in iteration `step`: epsilon-greedy with the last noise drawn."""
        agent = self.config.agent
        epsilon = linear_ramp(
            step, agent.epsilon_initial, agent.epsilon_final, agent.epsilon_start, agent.epsilon_steps
        )
        if self._exploration.random() < epsilon:
            return int(self._exploration.integers(self.actions))
        pixels = torch.from_numpy(observation).to(self.device).unsqueeze(0)
        logits = self.head(self.encoder(pixels), self._noise)
        return int(losses.expected_value(logits.softmax(-1), self._support).argmax())

    def update(self, replay: SequenceReplay, step: int, kind: str) -> dict[str, Tensor]:
        """One update in iteration `step` on a batch of `replay`; returns its metrics as 0-d tensors."""
        replay.require_window()
        config = self.config.replay
        ramp = (config.beta_initial, config.beta_final, config.beta_start, config.beta_end - config.beta_start)
        self._beta.fill_(linear_ramp(step - 1, *ramp))
        return self.update_on_device(replay)

    def update_on_device(self, replay: SequenceReplay) -> dict[str, Tensor]:
        """The part of an update that is a function of tensors alone: draw, learn, write the priorities."""
        fields = self.auxiliary.fields if self.auxiliary is not None else ()
        with span("sample"):
            batch = replay.sample(self.config.agent.batch_size, self.generators["sampling"], self._beta, fields)
        kl, metrics = self.learn(batch)
        with span("sample"):
            replay.update_priorities(batch.indices, kl)
        return metrics | {"beta": self._beta}

    def learn(self, batch: SequenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step on `batch`; returns the new priorities' divergences [B] and metrics."""
        with span("rl"):
            self._previous_noise.copy_(self._noise)
            self._noise.copy_(self.head.draw_noise(self.generators["noise"], self.device))
            latent = self._encode(self._augmented(batch.obs, "augmentation_rl"))  # [B, D]
            logits = self.head(scale_gradient(latent, self.config.agent.head_gradient_scale), self._noise)  # [B, A, N]
            log_probs = losses.of_action(logits.log_softmax(-1), batch.action)  # [B, N]
            target = self._target(batch)
            rl_loss = (losses.categorical_loss(log_probs, target) * batch.weights).mean()
        loss, metrics = rl_loss, {"rl_loss": rl_loss}
        if self.auxiliary is not None:
            auxiliary_loss, auxiliary_metrics = self.auxiliary.loss(batch)  # [T, B]
            auxiliary_loss = (auxiliary_loss * batch.weights).mean()
            loss = rl_loss + self.config.mlr.weight * auxiliary_loss
            metrics |= {"mlr_loss": auxiliary_loss, **auxiliary_metrics}

        with span("backward"):
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
        with span("optimizer"):
            if self.auxiliary is not None:
                self.auxiliary.update_targets()  # before the step: with tau 1 the targets are one update old
            for name, optimizer in self.optimizers.items():
                if name != "unclipped":
                    metrics[f"grad_norm_{name}"] = clip_in_step(optimizer, self.config.agent.clip_norm)
                optimizer.step()

        kl = losses.categorical_kl(log_probs, target, self.config.agent.kl_floor, self.config.agent.kl_ceiling)
        with torch.no_grad(), span("rl"):
            q = losses.expected_value(logits.softmax(-1), self._support)  # [B, A]
            metrics |= {
                "loss": loss,
                "q_mean": q.mean(),
                "q_max": q.amax(1).mean(),
                "priority": kl.pow(self.config.replay.alpha).mean(),
                "importance_weight": batch.weights.mean(),
                "rl_latent_spread": latent.std(0, correction=0).mean(),
                "rl_dead_units": (latent == 0).all(0).float().mean(),
            }
        return kl, {key: value.detach() for key, value in metrics.items()}

    @torch.no_grad()
    def _target(self, batch: SequenceBatch) -> Tensor:
        """Double DQN: the online network, with this update's noise, chooses; the previous noise values [B, N]."""
        both = torch.cat(
            (
                self._augmented(batch.next_obs, "augmentation_next_target"),
                self._augmented(batch.next_obs, "augmentation_next_online"),
            )
        )
        latents = self._encode(both).unflatten(0, (2, -1))  # [2, B, D]
        noises = torch.stack((self._previous_noise, self._noise)).unsqueeze(1)  # [2, 1, noise]
        target_probs, online_probs = self.head(latents, noises).softmax(-1)
        action = losses.expected_value(online_probs, self._support).argmax(1)
        agent = self.config.agent
        return losses.project_distribution(
            losses.of_action(target_probs, action),
            batch.returns,
            batch.done,
            agent.discount**agent.n_step,
            self._support,
        )

    def _encode(self, pixels: Tensor) -> Tensor:
        with self._autocast():
            return self.encoder(pixels)

    def _augmented(self, pixels: Tensor, purpose: str) -> Tensor:
        with span("augment"):
            return self._augment(pixels, self.generators[purpose])

    def save_weights(self, path: Path) -> None:
        """Writes what acting needs; decoder, momentum copies and optimiser stay in the checkpoints."""
        write_weights(self.networks, path)

    def state(self) -> dict:
        return {
            "networks": self.networks.state_dict(),
            "auxiliary": self.auxiliary.state() if self.auxiliary is not None else {},
            "optimizers": {name: adam_state(optimizer) for name, optimizer in self.optimizers.items()},
            "noise": self._noise,
            "previous_noise": self._previous_noise,
            "generators": self.generators.state(),
            "exploration": self._exploration.bit_generator.state,
        }

    def load_state(self, state: dict) -> None:
        self.networks.load_state_dict(state["networks"])
        if self.auxiliary is not None:
            self.auxiliary.load_state(state["auxiliary"])
        for name, optimizer in self.optimizers.items():
            load_adam_state(optimizer, state["optimizers"][name])
        self._noise.copy_(state["noise"])
        self._previous_noise.copy_(state["previous_noise"])
        self.generators.load_state(state["generators"])
        self._exploration.bit_generator.state = state["exploration"]


class TrainedAgent:
    """A trained agent with its noise off. `encoder` is frozen: uint8 [B, frames, H, W] -> latents float32 [B, D].

    Raises ConfigError for weights that are damaged or of another configuration.
    """

    def __init__(self, config: AtariConfig, weights: Path, device: torch.device | str = "cpu"):
        self.config, self.device = config, torch.device(device)

        def make(tensors: dict[str, Tensor]) -> nn.ModuleDict:
            self.actions = len(tensors["head.advantage_out.mean.bias"]) // config.agent.atoms
            self.encoder, self.head = make_networks(config, self.actions)
            return nn.ModuleDict({"encoder": self.encoder, "head": self.head})

        read_weights(weights, make, self.device)
        self._support = losses.support(config.agent.v_min, config.agent.v_max, config.agent.atoms, self.device)

    @torch.no_grad()
    def q_values(self, observations: np.ndarray) -> Tensor:
        """Expected returns float32 [B, A] of stacks uint8 [B, frames, H, W]. Raises ValueError for anything else."""
        expected = self.config.observation_shape
        if observations.dtype != np.uint8 or observations.shape[1:] != expected:
            raise ValueError(f"expected uint8 [B, {expected}], got {observations.dtype} {observations.shape}")
        pixels = torch.from_numpy(observations).to(self.device)
        return losses.expected_value(self.head(self.encoder(pixels), None).softmax(-1), self._support)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Greedy actions int64 [B] for stacks uint8 [B, frames, H, W]."""
        return self.q_values(observations).argmax(1).cpu().numpy()


def load_agent(run: str | Path, device: torch.device | str = "cpu", agent_steps: int | None = None) -> TrainedAgent:
    """The agent of the run folder `run` with its newest weights, or those after `agent_steps`.

    Raises ConfigError if there are none.
    """
    return TrainedAgent(load_config(run, AtariConfig), RunFolder(run).saved_weights(agent_steps), device)


def make_networks(config: AtariConfig, actions: int) -> tuple[Encoder, DuelingHead]:
    encoder = Encoder(config.agent.encoder, config.environment.frame_stack, config.environment.image_size)
    return encoder, DuelingHead(encoder.latent_dim, actions, config.agent)


def make_augmentation(config: AtariConfig) -> Augmentation:
    size = config.environment.image_size
    return Augmentation(config.augmentation, size, size)


def make_mlr(
    config: AtariConfig,
    encoder: Encoder,
    head: DuelingHead,
    augment: Augmentation,
    generators: Generators,
    autocast: Autocast,
) -> MLR:
    """MLR on the renormalised conv map, projected by the head's own first layers (paper, section 3)."""
    mlr, image_size = config.mlr, config.environment.image_size
    parts = {
        "encoder": encoder,
        "projector": HeadProjector(head) if mlr.projector else nn.Identity(),
        "action_embedding": ActionEmbedding(head.actions, encoder.latent_dim) if reads_actions(mlr) else None,
        "latent_dim": encoder.latent_dim,
        "mask": lambda: sample_mask(mlr.mask, mlr.seq_len, image_size, generators["mask"], generators["mask"].device),
        "augment_masked": lambda frames: augment(frames, generators["augmentation_mlr_masked"]),
        "augment_target": lambda frames: augment(frames, generators["augmentation_mlr_target"]),
        "autocast": autocast,
    }
    if mlr.target == "pixel":
        parts |= {"projector": nn.Identity(), "predictor": nn.Linear(encoder.latent_dim, image_size**2)}
        return PixelMLR(mlr, frame_channels=1, **parts)
    width = 2 * config.agent.hidden if mlr.projector else encoder.latent_dim
    return MLR(mlr, predictor=nn.Linear(width, width) if mlr.predictor else nn.Identity(), **parts)


def hidden_shares(config: AtariConfig) -> Hidden:
    """How much of its input the masked branch misses."""
    encoder, image_size = config.agent.encoder, config.environment.image_size
    return hidden_by(config.mlr, image_size, image_size, list(zip(encoder.kernels, encoder.strides, strict=True)))


def linear_ramp(step: int, start_value: float, end_value: float, start: int, length: int) -> float:
    """`start_value` up to and including `start`, `end_value` from `start + length` on, linear between."""
    share = min(max((step - start) / length, 0.0), 1.0) if length > 0 else float(step > start)
    return start_value + (end_value - start_value) * share
