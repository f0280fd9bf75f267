"""Masked World Models: acting with a latent memory, the updates of all parts, and trained agents for other code.

`N` slots, `B` windows, `T` steps, `A` actions, `P` pixels a side, `D` width of the autoencoder's tokens.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness.agent import Agent
from harness.config import require
from harness.pixels import as_pixels, to_device
from harness.precision import make_autocast
from harness.seeding import Generators, derive_seed, numpy_generator
from harness.spans import span
from harness.weights import read_weights
from mwm.autoencoder import Autoencoder
from mwm.batch import Batches
from mwm.behaviour import Behaviour, starts
from mwm.config import PATCH, RGB, WORLD_MODELS, MWMSection
from mwm.dynamics import Draw, Dynamics, Observed, States, feature_width, gumbel
from mwm.networks import initialise
from mwm.optimizer import Optimizer
from mwm.pixels import Pictures
from mwm.policy import Actor, truncated_sample

GENERATORS = ("mask", "latent", "imagination", "imagined_action", "acting", "acting_latent")
SAVED = ("autoencoder", "dynamics", "actor")  # parts that acting and pictures need


class Memory:
    """Latent states of slots and the actions taken in them; tensors that stay."""

    def __init__(self, section: MWMSection, slots: int, actions: int, device: torch.device):
        rssm = section.rssm
        self.stoch = torch.zeros(slots, rssm.variables * rssm.classes, device=device)
        self.deter = torch.zeros(slots, rssm.deter, device=device)
        self.action = torch.zeros(slots, actions, device=device)

    def state(self) -> dict[str, Tensor]:
        return {"stoch": self.stoch, "deter": self.deter, "action": self.action}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state().items():
            value.copy_(state[name])

    def see(self, parts: nn.ModuleDict, pictures: Tensor, first: Tensor, draw: Draw) -> Tensor:
        """Features [N, F] after pictures uint8 [N, 3, P, P]; slots marked in `first` bool [N] begin anew."""
        dynamics = parts["dynamics"]
        embedding = dynamics.pool(parts["autoencoder"].features(pictures)).float()
        states = States(self.stoch, self.deter)
        states, _ = dynamics.rssm.observe_step(states, self.action, embedding, first, draw)
        self.stoch.copy_(states.stoch)
        self.deter.copy_(states.deter)
        return states.feature


class MWMAgent(Agent):
    """Autoencoder, dynamics, actor and critic, each with an optimiser of its own; no gradient crosses between them.

    Raises ConfigError for more actions than the dynamics have inputs for.
    An update of the kind "autoencoder" trains the autoencoder on pictures. One of the kind "dynamics" trains the
    dynamics on windows of frozen tokens, then actor and critic in imagination from all states of the windows.
    """

    def __init__(
        self,
        section: MWMSection,
        *,
        image_size: int,
        action_size: int,
        random_steps: int,
        seed: int,
        precision: str,
        device: torch.device,
    ):
        inputs = section.rssm.action_inputs
        require(action_size <= inputs, f"the task has {action_size} actions: set mwm.rssm.action_inputs={action_size}")
        self.section, self.action_size, self.device = section, action_size, device
        self._random_steps, self._tokens = random_steps, (image_size // PATCH) ** 2
        self._autocast = make_autocast(precision, device)
        self.generators = Generators(seed, device, GENERATORS)
        self.exploration = numpy_generator(seed, "exploration")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "parameters"))
            self.autoencoder = make_autoencoder(section, image_size)
            self.dynamics = Dynamics(section, image_size)
            self.behaviour = Behaviour(section, action_size)
            self.networks = nn.ModuleDict(
                {"autoencoder": self.autoencoder, "dynamics": self.dynamics, "behaviour": self.behaviour}
            )
            initialise(self.networks)
        self.networks.to(device)
        self.memory = Memory(section, 1, action_size, device)
        trained = {
            "autoencoder": self.autoencoder,
            "dynamics": self.dynamics,
            "actor": self.behaviour.actor,
            "critic": self.behaviour.critic,
        }
        self.steppers = {
            name: Optimizer(module.parameters(), getattr(section.optimizers, name), section.adam_eps)
            for name, module in trained.items()
            if list(module.parameters())
        }
        self.optimizers = {name: stepper.adam for name, stepper in self.steppers.items()}
        # Further arguments of `update_on_device` over a period of later updates.
        self.cycle = tuple((kind,) for kind in WORLD_MODELS[section.world_model])

    @property
    def acting(self) -> nn.ModuleDict:
        """Parts that acting and pictures need."""
        parts = (self.autoencoder, self.dynamics, self.behaviour.actor)
        return nn.ModuleDict(dict(zip(SAVED, parts, strict=True)))

    @torch.no_grad()
    def act(self, observation: np.ndarray, step: int, first: bool) -> np.ndarray:
        """The action float32 [A] for uint8 [3, P, P] at agent step `step`: uniform at first, then a policy's sample.

        The memory of an episode in which the policy takes over begins there.
        """
        if step < self._random_steps:
            return self.exploration.uniform(-1, 1, self.action_size).astype(np.float32)
        pictures = to_device(observation, self.device).unsqueeze(0)
        begins = torch.full((1,), first or step == self._random_steps, device=self.device)
        with self._autocast():
            feature = self.memory.see(self.acting, pictures, begins, self._noise("acting_latent"))
            mean, std = self.behaviour.actor(feature)
        uniforms = self._uniforms("acting", torch.float64)(tuple(mean.shape))
        self.memory.action.copy_(truncated_sample(mean, std, uniforms, self.section.actor_gradient))
        return self.memory.action[0].cpu().numpy().copy()

    def begin_update(self, replay: Batches, step: int, kind: str) -> tuple[str]:
        """The host's share of an update; returns the variant of `update_on_device`."""
        with span("sample"):
            replay.draw(kind)
        return (kind,)

    def update_on_device(self, replay: Batches, kind: str) -> dict[str, Tensor]:
        """The part of an update that, for either kind, is a function of tensors alone."""
        with span("sample"):
            batch = replay.pictures() if kind == "autoencoder" else replay.windows()
        if kind == "autoencoder":
            noise = self._uniforms("mask")((len(batch.pictures), self._tokens))
            metrics = self.train_autoencoder(batch.pictures, batch.rewards, noise)
        else:
            observed, metrics = self.train_dynamics(batch, self._noise("latent"))
            draws = self._noise("imagination"), self._uniforms("imagined_action", torch.float64)
            metrics |= self.train_behaviour(observed, batch.terminal, *draws)
        return {name: value.detach().float() for name, value in metrics.items()}

    @span("autoencoder")
    def train_autoencoder(self, pictures: Tensor, rewards: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Steps the autoencoder on pictures uint8 [N, 3, P, P] with rewards [N] and noise [N, S] for the masks."""
        with self._autocast():
            loss, metrics = self.autoencoder.loss(pictures, rewards, noise)
        metrics = metrics | {"loss": loss, "grad_norm": self.steppers["autoencoder"].step(loss)}
        return {f"autoencoder/{name}": value for name, value in metrics.items()}

    @span("dynamics")
    def train_dynamics(self, batch, draw: Draw) -> tuple[Observed, dict[str, Tensor]]:
        """Steps the dynamics on windows; returns their states as they were before the step."""
        with torch.no_grad(), self._autocast():
            features = self.autoencoder.features(batch.pictures.flatten(0, 1))
        with self._autocast():
            loss, observed, metrics = self.dynamics.loss(features, batch, draw)
        metrics = metrics | {"loss": loss, "grad_norm": self.steppers["dynamics"].step(loss)}
        return observed, {f"dynamics/{name}": value for name, value in metrics.items()}

    @span("behaviour")
    def train_behaviour(self, observed: Observed, terminal: Tensor, draw: Draw, draw_action: Draw) -> dict[str, Tensor]:
        """Steps actor and critic in imagination from all states of windows; both losses come before either step."""
        behaviour, critic = self.behaviour, self.steppers["critic"]
        with self._autocast():
            imagined = behaviour.imagine(self.dynamics, starts(observed.states), draw, draw_action)
            losses = behaviour.losses(self.dynamics, imagined, terminal.flatten())
        actor_loss, critic_loss, metrics = losses
        updates = critic.updates.clone()
        metrics["actor_grad_norm"] = self.steppers["actor"].step(actor_loss)
        metrics["critic_grad_norm"] = critic.step(critic_loss)
        behaviour.update_target(updates)
        return {f"behaviour/{name}": value for name, value in metrics.items()}

    def _uniforms(self, purpose: str, dtype: torch.dtype = torch.float32) -> Draw:
        generator, device = self.generators[purpose], self.device
        return lambda shape: torch.rand(shape, generator=generator, device=device, dtype=dtype)

    def _noise(self, purpose: str) -> Draw:
        draw = self._uniforms(purpose)
        return lambda shape: gumbel(draw(shape))

    def state(self) -> dict:
        return {
            "networks": self.networks.state_dict(),
            "optimizers": {name: stepper.state() for name, stepper in self.steppers.items()},
            "generators": self.generators.state(),
            "exploration": self.exploration.bit_generator.state,
            "memory": self.memory.state(),
        }

    @torch.no_grad()
    def load_state(self, state: dict) -> None:
        self.networks.load_state_dict(state["networks"])
        for name, stepper in self.steppers.items():
            stepper.load_state(state["optimizers"][name])
        self.generators.load_state(state["generators"])
        self.exploration.bit_generator.state = state["exploration"]
        self.memory.load_state(state["memory"])


class Features(nn.Module):
    """Features of pictures uint8 [N, 3, P, P] by an autoencoder, as a module that can be exported."""

    def __init__(self, autoencoder: Autoencoder | Pictures):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pictures: Tensor) -> Tensor:
        return self.autoencoder.features(pictures)


class TrainedAgent:
    """A trained agent for several slots, each with a memory: the policy's mean on sampled latents.

    `encoder` is frozen: uint8 [N, 3, P, P] -> tokens float32 [N, 1 + S, D], the summary first; a pixel baseline gives
    embeddings [N, E]. `parts` holds the autoencoder, the dynamics and the actor. Raises ConfigError for weights that
    are damaged or of another configuration.
    """

    def __init__(
        self,
        section: MWMSection,
        image_size: int,
        weights: Path,
        device: torch.device | str = "cpu",
        slots: int = 1,
        seed: int = 0,
    ):
        self.device, self.slots = torch.device(device), slots
        self.observation_shape = RGB, image_size, image_size

        def make(tensors: dict[str, Tensor]) -> nn.ModuleDict:
            self.action_size = len(tensors["actor.std.bias"])
            actor = Actor(feature_width(section.rssm), section.actor_mlp, self.action_size, section.behaviour.min_std)
            parts = (make_autoencoder(section, image_size), Dynamics(section, image_size), actor)
            return nn.ModuleDict(dict(zip(SAVED, parts, strict=True)))

        self.parts = read_weights(weights, make, self.device)
        pool = [] if section.world_model == "mwm" else [self.parts["dynamics"].pool]
        self.encoder = nn.Sequential(Features(self.parts["autoencoder"]), *pool).eval()
        self.memory = Memory(section, slots, self.action_size, self.device)
        self.generators = Generators(seed, self.device, ("playing_latent",))

    @torch.no_grad()
    def act(self, observations: np.ndarray | Tensor, first: np.ndarray | Tensor) -> np.ndarray:
        """Actions float32 [N, A] for pictures uint8 [N, 3, P, P]; bool [N] marks those that begin an episode.

        Raises ValueError for anything else.
        """
        pictures, begins = as_pixels(observations, self.observation_shape, self.device), torch.as_tensor(first)
        if begins.dtype != torch.bool or not len(pictures) == len(begins) == self.slots:
            raise ValueError(f"expected {self.slots} pictures, and as many bools that mark beginnings of episodes")
        feature = self.memory.see(self.parts, pictures, begins.to(self.device), self._draw)
        self.memory.action.copy_(self.parts["actor"].mean(feature))
        return self.memory.action.cpu().numpy().copy()

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return gumbel(torch.rand(shape, generator=self.generators["playing_latent"], device=self.device))


def make_autoencoder(section: MWMSection, image_size: int) -> Autoencoder | Pictures:
    """The source of what the dynamics predict: an autoencoder's tokens, or the pixels themselves."""
    return Autoencoder(section, image_size) if section.world_model == "mwm" else Pictures()
