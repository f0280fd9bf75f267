"""What a DMControl run consists of."""

from pathlib import Path

import torch

from dmcontrol.agent import SACAgent, TrainedAgent, hidden_shares
from dmcontrol.config import RGB, DMControlConfig
from dmcontrol.cost import update_flops
from dmcontrol.environment import DMControlEnv, make_environment
from dmcontrol.rendering import with_advice
from dmcontrol.replay import TransitionReplay
from harness.evaluation import Player
from harness.loop import Parts
from harness.report.scores import published
from harness.run import Benchmark

BUDGETS = {"100k": 100_000, "500k": 500_000}  # environment steps


def make_agent(config: DMControlConfig, environment: DMControlEnv, device: torch.device) -> SACAgent:
    return SACAgent(config, environment.action_space.shape[0], device)


def make_replay(config: DMControlConfig, environment: DMControlEnv, device: torch.device) -> TransitionReplay:
    size, stack = config.environment.image_size, config.environment.frame_stack
    return TransitionReplay(
        capacity=min(config.replay.capacity, config.agent_steps),  # a run of more steps may go on from this one
        seq_len=config.mlr.seq_len,
        frame_shape=(RGB, size, size),
        frame_stack=stack,
        action_size=environment.action_space.shape[0],
        device=device,
        min_episode=config.episode_agent_steps,
    )


def make_player(config: DMControlConfig, weights: Path, seed: int, device: torch.device) -> Player:
    agent = TrainedAgent(config, weights, device)
    return lambda observations, first: agent.act(observations)


def units(config: DMControlConfig, agent_steps: int) -> dict[str, int]:
    """An agent step repeats its action for `action_repeat` environment steps and shows one frame."""
    return {
        "agent_steps": agent_steps,
        "env_steps": agent_steps * config.environment.action_repeat,
        "frames": agent_steps,
    }


def score(config: DMControlConfig, value: float) -> dict[str, float]:
    return {}


def manifest(config: DMControlConfig, parts: Parts) -> dict:
    return {"domain": config.domain, "task_name": config.task_name, "renderer": parts.environment.renderer}


def describe(config: DMControlConfig, parts: Parts) -> list[str]:
    agent, encoder = config.agent, config.agent.encoder
    batch = f"batch        {agent.batch_size} transitions"
    if config.aux == "mlr":
        batch += f"; {config.mlr_agent.batch_size} windows of {config.mlr.seq_len} steps"
    trained = sum(weight.numel() for weight in parts.agent.trained_parameters())
    return [
        f"networks     {trained / 1e6:.2f} M trained parameters, {len(encoder.strides)} convolutions of "
        f"{encoder.filters} filters, latent {encoder.latent}, heads {agent.hidden}",
        batch,
        f"renderer     {with_advice(parts.environment.renderer, parts.agent.device.type)}",
    ]


def references(config: DMControlConfig) -> dict[str, float]:
    """The paper's scores of this setting; there are none of other sizes than its own."""
    if config.preset != "full":
        return {}
    method, name = {"mlr": ("mlr", "MLR"), "none": ("baseline", "Baseline")}[config.aux]
    scores = {}
    for budget in BUDGETS:
        row = published("dmcontrol").get(f"{config.task}_{budget}", {})
        if method in row and config.env_steps >= BUDGETS[budget]:
            scores[f"published {name} at {budget}"] = row[method]
    return scores


def milestones(config: DMControlConfig) -> list[int]:
    """Agent steps at the budgets of the paper's tables and at the end."""
    steps = {min(budget, config.env_steps) // config.environment.action_repeat for budget in BUDGETS.values()}
    return sorted(steps | {config.agent_steps})


def flops(config: DMControlConfig, agent: SACAgent) -> float:
    return update_flops(config, agent.action_size)


DMCONTROL = Benchmark(
    schema=DMControlConfig,
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
