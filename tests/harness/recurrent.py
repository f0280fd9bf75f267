"""A tiny method with memory and two phases of updates, on the task of `cue`."""

from collections.abc import Sequence

import torch
from torch import nn

from harness.agent import Agent
from harness.optimizers import adam_state, load_adam_state, make_adam
from harness.recipe import Method, Recipe, Suite
from harness.seeding import Generators, derive_seed
from harness.weights import read_weights
from tests.harness import cue

PIXELS, HIDDEN, BATCH = 4, 8, 6
PRETRAINING, EVERY = 40, 5  # updates at the start, agent steps between later ones


class TwoPhases:
    """A pretraining at one step, then two kinds of update at every fifth."""

    long_phases = True

    def __init__(self, start: int):
        self.start = start

    def due(self, step: int) -> Sequence[str]:
        if step == self.start:
            return ("a",) * PRETRAINING
        later = step > self.start and (step - self.start) % EVERY == 0
        return ("a", "b") if later else ()

    def total(self, steps: int) -> int:
        return PRETRAINING + 2 * ((steps - 1 - self.start) // EVERY) if steps > self.start else 0


def make_networks() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"decoder": nn.Linear(HIDDEN, PIXELS), "memory": nn.GRUCell(PIXELS, HIDDEN), "policy": nn.Linear(HIDDEN, 1)}
    )


def remember(networks: nn.ModuleDict, pixels: torch.Tensor, memory: torch.Tensor, first: torch.Tensor):
    """The memory [B, HIDDEN] after observations uint8 [B, 1, 2, 2]; those marked in `first` [B] begin with none."""
    return networks["memory"](pixels.flatten(1) / 255, memory * ~first.unsqueeze(1))


class RecurrentAgent(Agent):
    """ "a" reconstructs pixels from the memory of a single one; "b" moves the policy to actions with a reward."""

    def __init__(self, seed: int):
        self.generators = Generators(seed, torch.device("cpu"), ("acting", "sampling"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "parameters"))
            self.networks = make_networks()
        networks = self.networks
        trained = {
            "a": [*networks["decoder"].parameters(), *networks["memory"].parameters()],
            "b": list(networks["policy"].parameters()),
        }
        self.optimizers = {kind: make_adam(trained[kind], 0.01, (0.9, 0.999), 1e-8) for kind in trained}
        self.memory = torch.zeros(1, HIDDEN)

    def trained_parameters(self):
        return list(self.networks.parameters())

    @torch.no_grad()
    def act(self, observation, step, first):
        pixels, first = torch.from_numpy(observation)[None], torch.tensor([first])
        self.memory.copy_(remember(self.networks, pixels, self.memory, first))
        noise = torch.randn(1, generator=self.generators["acting"])
        return (self.networks["policy"](self.memory)[0] + noise).tanh().numpy()

    def update(self, replay, step, kind):
        slots = torch.randint(replay.steps, (BATCH,), generator=self.generators["sampling"])
        pixels, actions, rewards = (replay.columns[name][slots] for name in ("pixels", "actions", "rewards"))
        memory = remember(self.networks, pixels, torch.zeros(BATCH, HIDDEN), torch.ones(BATCH, dtype=torch.bool))
        if kind == "a":
            loss = (self.networks["decoder"](memory) - pixels.flatten(1) / 255).square().mean()
        else:
            loss = ((self.networks["policy"](memory.detach()).tanh() - actions).square() * rewards[:, None]).mean()
        self.optimizers[kind].zero_grad()
        loss.backward()
        self.optimizers[kind].step()
        return {f"loss_{kind}": loss.detach()}

    @property
    def acting(self):
        return self.networks

    def state(self):
        return {
            "networks": self.networks.state_dict(),
            "optimizers": {kind: adam_state(optimizer) for kind, optimizer in self.optimizers.items()},
            "generators": self.generators.state(),
            "memory": self.memory,
        }

    def load_state(self, state):
        self.networks.load_state_dict(state["networks"])
        for kind, optimizer in self.optimizers.items():
            load_adam_state(optimizer, state["optimizers"][kind])
        self.generators.load_state(state["generators"])
        self.memory.copy_(state["memory"])


class WholeReplay:
    """Every step of a run."""

    def __init__(self, capacity: int):
        self.capacity, self.steps = capacity, 0
        self.columns = {
            "pixels": torch.zeros(capacity, 1, 2, 2, dtype=torch.uint8),
            "actions": torch.zeros(capacity, 1),
            "rewards": torch.zeros(capacity),
        }

    @property
    def nbytes(self):
        return sum(column.nbytes for column in self.columns.values())

    def begin_step(self):
        pass

    def store(self, observation, action, reward, terminated, truncated, next_observation, info):
        for name, value in (("pixels", observation), ("actions", action), ("rewards", reward)):
            self.columns[name][self.steps] = torch.as_tensor(value)
        self.steps += 1

    def rows(self, start, stop):
        return {name: column[start:stop].clone() for name, column in self.columns.items()}

    def load_rows(self, start, rows):
        for name, column in self.columns.items():
            column[start : start + len(rows[name])] = rows[name]

    def state(self):
        return {"steps": self.steps}

    def load_state(self, state):
        self.steps = state["steps"]


def make_player(config, weights, seed, device):
    networks = read_weights(weights, lambda tensors: make_networks(), device)
    memory = torch.zeros(config.evaluation.environments, HIDDEN)

    @torch.no_grad()
    def player(observations, first):
        memory.copy_(remember(networks, torch.from_numpy(observations), memory, torch.from_numpy(first)))
        return networks["policy"](memory).tanh().numpy()

    return player


def make_agent(config, spaces, device):
    return RecurrentAgent(config.seed)


def make_replay(config, spaces, device):
    return WholeReplay(config.agent_steps)


def make_schedule(config):
    return TwoPhases(config.loop.learning_starts)


def nothing_to_say(*arguments):
    return []


def nothing_to_note(*arguments):
    return {}


def units(config, agent_steps):
    return {"agent_steps": agent_steps, "env_steps": agent_steps, "frames": agent_steps}


METHOD = Method(
    make_agent=make_agent,
    make_replay=make_replay,
    make_player=make_player,
    make_schedule=make_schedule,
    load_trained=make_player,
    describe=nothing_to_say,
)
SUITE = Suite(cue.make_environment, units, manifest=nothing_to_note, describe=nothing_to_say)
RECIPE = Recipe(SUITE, METHOD)
