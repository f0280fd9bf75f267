"""What an Atari run consists of."""

from pathlib import Path

import numpy as np
import torch

from atari.agent import RainbowAgent, TrainedAgent, hidden_shares
from atari.config import AtariConfig
from atari.cost import update_flops
from atari.emulators import emulator_note, rom_md5
from atari.environment import AtariEnv, make_environment
from atari.replay import SequenceReplay
from harness.evaluation import Player
from harness.loop import Parts
from harness.report.scores import human_normalised, published
from harness.run import Benchmark


def make_agent(config: AtariConfig, environment: AtariEnv, device: torch.device) -> RainbowAgent:
    return RainbowAgent(config, int(environment.action_space.n), device)


def make_replay(config: AtariConfig, environment: AtariEnv, device: torch.device) -> SequenceReplay:
    size = config.environment.image_size
    return SequenceReplay(
        config.replay, config.agent, config.mlr.seq_len, (size, size), config.environment.frame_stack, device
    )


def make_player(config: AtariConfig, weights: Path, seed: int, device: torch.device) -> Player:
    agent = TrainedAgent(config, weights, device)
    return epsilon_greedy(agent, config.evaluation.epsilon, np.random.default_rng(seed))


def epsilon_greedy(agent: TrainedAgent, epsilon: float, generator: np.random.Generator) -> Player:
    def play(observations: np.ndarray, first: np.ndarray) -> np.ndarray:
        greedy = agent.act(observations)
        explore = generator.random(len(greedy)) < epsilon
        return np.where(explore, generator.integers(agent.actions, size=len(greedy)), greedy)

    return play


def units(config: AtariConfig, agent_steps: int) -> dict[str, int]:
    """An environment step is an agent step on Atari; each shows `action_repeat` emulator frames."""
    return {
        "agent_steps": agent_steps,
        "env_steps": agent_steps,
        "frames": agent_steps * config.environment.action_repeat,
    }


def score(config: AtariConfig, value: float) -> dict[str, float]:
    return {"human_normalised": human_normalised(config.game, value)}


def manifest(config: AtariConfig, parts: Parts) -> dict:
    return {"game": config.game, "emulator": config.emulator, "rom_md5": rom_md5(config.game, config.emulator)}


def describe(config: AtariConfig, parts: Parts) -> list[str]:
    agent = config.agent
    trained = sum(weight.numel() for weight in parts.agent.trained_parameters())
    note = emulator_note(config.game, config.emulator)
    return [
        f"networks     {trained / 1e6:.2f} M trained parameters, "
        f"convolutions {'-'.join(map(str, agent.encoder.channels))}, head {agent.hidden}",
        f"batch        {agent.batch_size} windows of {config.mlr.seq_len} steps",
        *([f"emulator     {note}"] if note else []),
    ]


def references(config: AtariConfig) -> dict[str, float]:
    scores = published("atari")[config.game]
    return {"random policy": scores["random"], "human": scores["human"]}


def flops(config: AtariConfig, agent: RainbowAgent) -> float:
    return update_flops(config, agent.actions)


def milestones(config: AtariConfig) -> list[int]:
    return [config.agent_steps]


ATARI = Benchmark(
    schema=AtariConfig,
    make_agent=make_agent,
    make_replay=make_replay,
    make_environment=make_environment,
    make_player=make_player,
    units=units,
    score=score,
    manifest=manifest,
    describe=describe,
    hidden_shares=hidden_shares,
    update_flops=flops,
    references=references,
    milestones=milestones,
)
