"""Replays environment traces (h) and no-op starts (i).

A trace does not name its seed: it is that of the folder's no-op files, or 1, whichever agrees.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from atari.config import EnvironmentConfig
from atari.environment import AtariEnv, draw_noops, noop_generator
from tests.golden.check import Check, exact

HORIZON = 27_000
MAX_NOOPS = 30


def config(image_size: int, frame_stack: int) -> EnvironmentConfig:
    return EnvironmentConfig(
        image_size=image_size,
        frame_stack=frame_stack,
        action_repeat=4,
        max_noops=MAX_NOOPS,
        horizon=HORIZON,
        sticky_actions=0.0,
        terminal_on_life_loss=True,
    )


def replay_h(folder: Path) -> Iterator[Check]:
    seeds = sorted({1, *(run_seed(np.load(path)) for path in folder.glob("i_noops*.npz"))})
    for path in sorted(folder.glob("h_env_*_*.npz")):
        yield from min((list(replay_trace(path, seed)) for seed in seeds), key=total_error)


def replay_i(folder: Path) -> Iterator[Check]:
    for path in sorted(folder.glob("i_noops*.npz")):
        data = np.load(path)
        seed, resets = run_seed(data), data["noops"].shape[1]
        generators = [noop_generator(seed, int(index)) for index in data["env_id"]]
        expected = [np.random.RandomState(noop_words(np_seed)).get_state()[1] for np_seed in data["np_seed"]]
        yield exact(path.name, "np_seed", [generator.get_state()[1] for generator in generators], expected)
        draws = [[draw_noops(generator, MAX_NOOPS) for _ in range(resets)] for generator in generators]
        yield exact(path.name, "noops", draws, data["noops"])
        env = make("pong", 84, 4, seed, int(data["env_id"][-1]), training=False)  # building all of them takes long
        played = [played_noops(env) for _ in range(resets)]
        yield exact(path.name, "noops played by the last", played, data["noops"][-1])
        yield exact(path.name, "ale_random_seed", env.emulator.ale.getInt("random_seed"), data["ale_random_seed"])


def replay_trace(path: Path, seed: int) -> Iterator[Check]:
    data = np.load(path)
    game, mode = path.stem.removeprefix("h_env_").rsplit("_", 1)
    _, frame_stack, *_, image_size = data["first_obs"].shape
    env = make(game, image_size, frame_stack, seed, 0, training=mode == "train")
    env.reset()  # building the reference's environment resets it once
    trace = play(env, data["action"])
    yield exact(path.name, "action_set", env.emulator.actions, data["action_set"])
    yield exact(path.name, "n_actions", env.action_space.n, data["n_actions"])
    first = data["first_obs"]
    trace["first_obs"] = np.reshape(trace.pop("obs")[: len(first)], first.shape)
    for quantity, actual in trace.items():
        yield exact(path.name, quantity, actual, data[quantity])


def play(env: AtariEnv, actions: np.ndarray) -> dict[str, list]:
    """Plays the actions, with a reset after every whole game; records what a trace file holds."""
    names = "reward done traj_done game_score lives last_frame_hash obs_hash reset_steps reset_obs_hash obs"
    trace = {name: [] for name in names.split()}
    obs, _ = env.reset()
    trace["obs"].append(obs)
    trace["reset_obs_hash"].append(hash_of(obs))
    for step, action in enumerate(actions):
        obs, reward, terminated, truncated, info = env.step(action)
        whole_game = terminated or truncated
        trace["obs"].append(obs)
        trace["reward"].append(reward if env.training else np.sign(reward))  # files hold the sign in both modes
        trace["done"].append(whole_game or info["life_lost"])
        trace["traj_done"].append(whole_game)
        trace["game_score"].append(info["raw_reward"])
        trace["lives"].append(info["lives"])
        trace["last_frame_hash"].append(hash_of(obs[-1]))
        trace["obs_hash"].append(hash_of(obs))
        if whole_game:
            trace["reset_steps"].append(step)
            trace["reset_obs_hash"].append(hash_of(env.reset()[0]))
    return trace


def make(game: str, image_size: int, frame_stack: int, seed: int, index: int, training: bool) -> AtariEnv:
    settings = config(image_size, frame_stack)
    return AtariEnv(game, settings, seed=seed, index=index, training=training, horizon=HORIZON)


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


def total_error(checks: list[Check]) -> float:
    return sum(check.error for check in checks)
