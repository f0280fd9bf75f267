"""What a DMControl run consists of."""

from pathlib import Path

import torch

from dmcontrol.agent import SACAgent, TrainedAgent
from dmcontrol.config import DMControlConfig
from dmcontrol.cost import update_flops
from dmcontrol.environment import DMControlEnv
from dmcontrol.replay import TransitionReplay
from mlr.results.scores import published
from mlr.training.evaluation import Act
from mlr.training.loop import Parts
from mlr.training.run import Benchmark
from mlr.training.seeding import derive_seed


def make_agent(config: DMControlConfig, environment: DMControlEnv, device: torch.device) -> SACAgent:
    return SACAgent(config, environment.action_space.shape[0], device)


def make_replay(config: DMControlConfig, environment: DMControlEnv, device: torch.device) -> TransitionReplay:
    size, stack = config.environment.image_size, config.environment.frame_stack
    return TransitionReplay(
        capacity=min(config.replay.capacity, config.agent_steps),  # a shorter run never comes round
        seq_len=config.mlr.seq_len,
        frame_shape=(3, size, size),
        frame_stack=stack,
        action_size=environment.action_space.shape[0],
        device=device,
        min_episode=-(-config.environment.episode_env_steps // config.environment.action_repeat),
    )


def make_environment(config: DMControlConfig, seed: int, episode: int, training: bool) -> DMControlEnv:
    """Evaluation episodes have environments of their own, whose starts depend on `seed` and `episode` alone."""
    purpose = "environment" if training else "evaluation_environment"
    return DMControlEnv(config.domain, config.task_name, config.environment, derive_seed(seed, purpose, episode))


def make_player(config: DMControlConfig, weights: Path, seed: int, device: torch.device) -> Act:
    return TrainedAgent(config, weights, device).act


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
        f"renderer     {parts.environment.renderer}",
    ]


def references(config: DMControlConfig) -> dict[str, float]:
    """The paper's scores of this setting, where it has the task and the budget."""
    method, name = {"mlr": ("mlr", "MLR"), "none": ("baseline", "Baseline")}[config.aux]
    scores = {}
    for budget in ("100k", "500k"):
        row = published("dmcontrol").get(f"{config.task}_{budget}", {})
        if method in row and config.env_steps <= int(budget[:-1]) * 1000:
            scores[f"published {name} at {budget}"] = row[method]
    return scores


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
    update_flops=lambda config, agent: update_flops(config, agent.action_size),
    references=references,
)
