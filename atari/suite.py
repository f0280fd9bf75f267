"""Atari as a suite: units of a step, scores, and what identifies the emulator."""

from importlib.metadata import version

from atari import scores
from atari.config import AtariConfig
from atari.emulators import emulator_note, rom_md5
from atari.environment import AtariEnv, make_environment
from harness.recipe import Suite


def units(config: AtariConfig, agent_steps: int) -> dict[str, int]:
    """An environment step is an agent step on Atari; each shows `action_repeat` emulator frames."""
    return {
        "agent_steps": agent_steps,
        "env_steps": agent_steps,
        "frames": agent_steps * config.environment.action_repeat,
    }


def columns(config: AtariConfig, score: float) -> dict[str, float]:
    normalised = scores.human_normalised(config.game, score)
    return {} if normalised is None else {"human_normalised": normalised}


def manifest(config: AtariConfig, environment: AtariEnv) -> dict:
    return {"game": config.game, "emulator": config.environment.emulator, **simulator(config)}


def simulator(config: AtariConfig) -> dict[str, str]:
    emulator = config.environment.emulator
    package = {"ale": "ale-py", "atari_py": "atari-py"}[emulator]
    return {package: version(package), "rom_md5": rom_md5(config.game, emulator)}


def describe(config: AtariConfig, environment: AtariEnv, device_type: str) -> list[str]:
    note = emulator_note(config.game, config.environment.emulator)
    return [f"emulator     {note}"] if note else []


def references(config: AtariConfig) -> dict[str, float]:
    return scores.references(config.game)


ATARI = Suite(
    make_environment=make_environment,
    units=units,
    columns=columns,
    references=references,
    manifest=manifest,
    describe=describe,
    simulator=simulator,
)
