"""Replays environment traces (h), no-op starts and the evaluation protocol (i).

A trace is played until its first difference, which is reported with its step. A trace that does not name its seed has
that of a no-op file of the folder, or else the one below SEEDS that gives the trace. A seed enters by the no-ops it
draws alone: seeds that draw as another did up to its first difference are not played. The protocol's small run is a
record and not compared.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from atari.config import EnvironmentConfig
from atari.environment import AtariEnv, draw_noops, noop_generator
from atari.games import require_game
from atari.scores import constants
from harness.config import ConfigError
from harness.evaluation import evaluation_steps
from recipes import COMMANDS
from tests.golden.check import Arrays, Check, exact, load, relative, setting

HORIZON = 27_000
MAX_NOOPS = 30
SEEDS = 100
SEARCHED = 3  # steps to play in search of a seed, in lengths of the trace


@dataclass(frozen=True)
class Event:
    """One recorded value: `index` in its array, `step` of the trace after which it was seen (-1: at the start)."""

    quantity: str
    index: int
    step: int
    value: object


@dataclass(frozen=True)
class Outcome:
    compared: tuple[str, ...]  # quantities, in their order
    difference: str | None  # the first one, and its step
    events: int  # that agreed
    resets: int  # up to the difference, the first included
    steps: int  # played


def replay_h(folder: Path) -> Iterator[Check]:
    """Traces of any games; of several seeds the one that agrees longest."""
    named = sorted({run_seed(load(path)) for path in folder.glob("i_noops*.npz")})
    for path in sorted(folder.glob("h_env_*.npz")):
        yield from trace_checks(path, load(path), named)


def trace_checks(path: Path, data: Arrays, named: list[int]) -> Iterator[Check]:
    seeds = candidates(data, named)
    env = make_for(path, data, seeds[0])
    sets = [exact(path.name, "action_set", env.emulator.actions, data["action_set"])]
    sets += [exact(path.name, "n_actions", env.action_space.n, data["n_actions"])] if "n_actions" in data else []
    yield from sets
    if not all(check.passed for check in sets):
        return  # the actions would mean something else
    outcome = best_outcome(env, data, seeds)
    if outcome.difference is None:
        yield from (Check(path.name, quantity, 0.0, 0.0) for quantity in outcome.compared)
    else:
        yield Check(path.name, outcome.difference, 1.0, 0.0)


def candidates(data: Arrays, named: list[int]) -> list[int]:
    """The trace's own seed if it has one; else the named ones, then all below SEEDS."""
    own = setting(data, "seed")
    return [*dict.fromkeys((*named, *range(SEEDS)))] if own is None else [int(own)]


def best_outcome(env: AtariEnv, data: Arrays, seeds: list[int]) -> Outcome:
    """The first seed that gives the trace; else the one whose first difference comes last. `env` has the first seed.

    Wrong seeds differ early. Where many differ late the trace is wrong itself, and the search ends.
    """
    outcomes: list[Outcome] = []
    wrong: set[tuple[int, ...]] = set()  # no-ops drawn up to a first difference
    for seed in seeds:
        draws = trace_draws(data, seed)
        if any(draws[: len(start)] == start for start in wrong):
            continue
        if outcomes:
            env._noops = noop_generator(seed, env_index(data))  # much faster than another emulator
        env.reset()  # building the reference's environment resets it once
        outcomes.append(compare(env, data))
        if outcomes[-1].difference is None:
            return outcomes[-1]
        if sum(outcome.steps for outcome in outcomes) > SEARCHED * len(data["action"]):
            break
        wrong.add(draws[: outcomes[-1].resets])
    return max(outcomes, key=lambda outcome: outcome.events)


def trace_draws(data: Arrays, seed: int) -> tuple[int, ...]:
    """The no-ops of the trace's resets, at the start and after each whole game."""
    generator, resets = noop_generator(seed, env_index(data)), 1 + np.count_nonzero(data["traj_done"])
    return tuple(draw_noops(generator, max_noops(data)) for _ in range(1 + resets))[1:]


def compare(env: AtariEnv, data: Arrays) -> Outcome:
    """Plays the recorded actions until a value differs from the recorded one."""
    counts: dict[str, int] = {}
    difference, resets = None, 0
    for event in play(env, data["action"]):
        resets += event.quantity == "reset_obs_hash"
        expected = data.get(event.quantity, ())
        if event.index < len(expected):
            difference = describe(event, expected[event.index])
            counts[event.quantity] = counts.get(event.quantity, 0) + 1
        elif event.quantity in data and event.quantity != "first_obs":  # of which the first few are recorded
            difference = f"{event.quantity} at step {event.step}: one more than recorded"
        if difference is not None:
            break
    for quantity, count in counts.items():
        if difference is None and count < len(data[quantity]):
            difference = f"{quantity}: {count} instead of {len(data[quantity])} in the whole trace"
    return Outcome(tuple(counts), difference, sum(counts.values()), resets, event.step + 1)


def describe(event: Event, expected) -> str | None:
    """The difference of a value from the recorded one, if there is any."""
    value, expected = np.asarray(event.value), np.asarray(expected)
    if value.size == expected.size and (value.reshape(expected.shape) == expected).all():
        return None
    when = "at the start" if event.step < 0 else f"at step {event.step}"
    if value.ndim == 0:
        return f"{event.quantity} {when}: {value} instead of {expected}"
    if value.size != expected.size:
        return f"{event.quantity} {when}: shape {value.shape} instead of {expected.shape}"
    return f"{event.quantity} {when}: {np.count_nonzero(value.reshape(expected.shape) != expected)} pixels differ"


def play(env: AtariEnv, actions: np.ndarray) -> Iterator[Event]:
    """Plays the actions, with a reset after every whole game, and tells all that a trace file holds."""
    obs, _ = env.reset()
    resets = 0
    yield Event("reset_obs_hash", resets, -1, hash_of(obs))
    yield Event("first_obs", 0, -1, obs)
    for step, action in enumerate(actions):
        obs, reward, terminated, truncated, info = env.step(action)
        whole_game = terminated or truncated
        seen = {
            "reward": reward if env.training else np.sign(reward),  # files hold the sign in both modes
            "done": whole_game or info["life_lost"],
            "traj_done": whole_game,
            "game_score": info["raw_reward"],
            "lives": info["lives"],
            "last_frame_hash": hash_of(obs[-1]),
            "obs_hash": hash_of(obs),
        }
        yield Event("first_obs", step + 1, step, obs)
        yield from (Event(quantity, step, step, value) for quantity, value in seen.items())
        if whole_game:
            yield Event("reset_steps", resets, step, step)
            resets += 1
            yield Event("reset_obs_hash", resets, step, hash_of(env.reset()[0]))


def replay_i(folder: Path) -> Iterator[Check]:
    """Numbers of no-ops drawn and played; the evaluation protocol against the paper's setting."""
    for path in sorted(folder.glob("i_eval*.json")):
        yield from protocol_checks(path.name, json.loads(path.read_text()))
    for path in sorted(folder.glob("i_noops*.npz")):
        data = load(path)
        seed, resets = run_seed(data), data["noops"].shape[1]
        generators = [noop_generator(seed, int(index)) for index in data["env_id"]]
        expected = [np.random.RandomState(noop_words(np_seed)).get_state()[1] for np_seed in data["np_seed"]]
        yield exact(path.name, "np_seed", [generator.get_state()[1] for generator in generators], expected)
        draws = [[draw_noops(generator, max_noops(data)) for _ in range(resets)] for generator in generators]
        yield exact(path.name, "noops", draws, data["noops"])
        env = make("pong", 84, 4, seed, int(data["env_id"][-1]), training=False)  # building all of them takes long
        played = [played_noops(env) for _ in range(resets)]
        yield exact(path.name, "noops played by the last", played, data["noops"][-1])
        yield exact(path.name, "ale_random_seed", env.emulator.ale.getInt("random_seed"), data["ale_random_seed"])


def protocol_checks(file: str, protocol: dict) -> Iterator[Check]:
    config = COMMANDS["atari"].resolve(["game=pong"])
    evaluation, environment = config.evaluation, config.environment
    ours = {
        "n_envs": evaluation.environments,
        "n_trajectories": evaluation.episodes,
        "eval_epsilon_after_start": evaluation.epsilon,
        "horizon_agent_steps_setting": evaluation.horizon,
        "frame_skip": environment.action_repeat,
        "actual_max_episode_steps": evaluation.horizon + steps_beyond_the_horizon(),
        "max_frames_in_result": (evaluation.horizon + steps_beyond_the_horizon()) * environment.action_repeat,
    }
    for name, value in ours.items():
        yield exact(file, name, value, protocol[name])
    # An iteration counts from 0 and is evaluated at its end. Untrained weights are evaluated with the intervals alone.
    first, *intervals = (step + 1 for step in protocol["evaluations_every_interval"]["iterations"])
    steps = evaluation_steps(intervals[-1], intervals[0])
    yield exact(file, "evaluations_every_interval", steps, [first - 1, *intervals])
    _, last = (step + 1 for step in protocol["evaluations_final_only"]["iterations"])
    yield exact(file, "evaluations_final_only", evaluation_steps(last, 0), [last])
    for column, player in enumerate(("random", "human")):
        scores = protocol[f"{player}_scores_used"]
        ours = [constants()[game][column] for game in scores]
        yield relative(file, f"{player}_scores_used", ours, list(scores.values()), 1e-6)


def steps_beyond_the_horizon() -> int:
    """Agent steps of an evaluation episode after those of the horizon, counted in a short one."""
    horizon = 3
    env = make("pong", 84, 4, seed=1, index=0, training=False, horizon=horizon)
    env.reset()
    steps = 1
    while not env.step(0)[3]:
        steps += 1
    return steps - horizon


def make_for(path: Path, data: Arrays, seed: int) -> AtariEnv:
    """The environment that a trace is of, if that is its seed."""
    words = path.stem.removeprefix("h_env_").split("_")
    named = [word for word in words if word in ("train", "eval")]
    # A file that names no mode is of training if a life that was lost ended something.
    training = named[0] == "train" if named else bool((data["done"] & ~data["traj_done"]).any())
    _, frame_stack, *_, image_size = data["first_obs"].shape
    environment = config(image_size, frame_stack, max_noops(data))
    horizon = trace_horizon(words, data)
    return AtariEnv(game_of(words), environment, seed=seed, index=env_index(data), training=training, horizon=horizon)


def game_of(words: list[str]) -> str:
    """The longest run of words that names a game."""
    for start, stop in sorted(combinations(range(len(words) + 1), 2), key=lambda ends: ends[0] - ends[1]):
        game = "_".join(words[start:stop])
        try:
            require_game(game)
        except ConfigError:
            continue
        return game
    raise ValueError(f"no game is named in {'_'.join(words)}")


def trace_horizon(words: list[str], data: Arrays) -> int:
    """The recorded horizon; else the one that cut the trace's longest games short, if any did, while lives were left.

    A horizon is tested before the step is counted: games that it ends have one step more.
    """
    in_name = [int(digits) for word in words for digits in re.findall(r"horizon(\d+)", word)]
    recorded = setting(data, "horizon", in_name[0] if in_name else None)
    if recorded is not None:
        return int(recorded)
    ends = np.flatnonzero(data["traj_done"])
    lengths = np.diff(ends, prepend=-1)
    longest = lengths.max(initial=0)
    cut = lengths[data["lives"][ends] > 0]
    # In a game without lives only the name tells that a horizon plays a part.
    found = (cut == longest).all() if len(cut) else "horizon" in words and longest > 0
    return int(longest) - 1 if found else HORIZON


def max_noops(data: Arrays) -> int:
    return int(setting(data, "max_noops", MAX_NOOPS))


def env_index(data: Arrays) -> int:
    return int(setting(data, "env_id", 0))


def make(
    game: str, image_size: int, frame_stack: int, seed: int, index: int, training: bool, horizon: int = HORIZON
) -> AtariEnv:
    settings = config(image_size, frame_stack, MAX_NOOPS)
    return AtariEnv(game, settings, seed=seed, index=index, training=training, horizon=horizon)


def config(image_size: int, frame_stack: int, max_noops: int) -> EnvironmentConfig:
    return EnvironmentConfig(
        emulator="ale",
        image_size=image_size,
        frame_stack=frame_stack,
        action_repeat=4,
        max_noops=max_noops,
        horizon=HORIZON,
        sticky_actions=0.0,
        terminal_on_life_loss=True,
    )


def played_noops(env: AtariEnv) -> int:
    """Frames that the emulator played at a reset, without the first no-op, which no generator draws."""
    env.reset()
    return env.emulator.ale.getEpisodeFrameNumber() - 1


def noop_words(np_seed: int) -> list[int]:
    digest = hashlib.sha512(str(np_seed).encode()).digest()[:8]
    return list(np.frombuffer(digest, dtype="<u4"))


def run_seed(noops) -> int:
    """Seed of the run a no-op file is of: environment 0 has it, environment i has 100 * seed + i."""
    index, seed = int(noops["env_id"][0]), int(noops["np_seed"][0])
    return (seed - index) // 100 if index else seed


def hash_of(pixels: np.ndarray) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big"))
