"""Playing episodes again, on an environment whose scores are known without it."""

import csv
import json
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace

import gymnasium
import numpy as np
import pytest

from harness.config import ConfigError
from harness.episodes import PLAYED, pack, taken
from harness.logs import CsvLog
from harness.recipe import Suite, repeated_steps
from harness.run_folder import RunFolder
from harness.seeding import derive_seed
from harness.verification import verify


class Here(Executor):
    """Plays in this process."""

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        return future


class Sum(gymnasium.Env):
    """Three steps; the score is the seed's last digit and the sum of the actions, success whether that is 3 or more."""

    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, seed):
        self.total, self.left, self.seed = 0, 3, seed

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.uint8), {}

    def step(self, action):
        self.left -= 1
        self.total += action
        reward = float(action) + (self.seed % 10 if self.left == 2 else 0)
        return np.zeros(2, np.uint8), reward, self.left == 0, False, {"columns": {"success": self.total >= 3}}


@dataclass
class EnvironmentConfig:
    action_repeat: int = 2


@dataclass
class Config:
    task: str = "sum"
    seed: int = 4
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)


SUITE = Suite(
    make_environment=lambda config, seed, episode, training: Sum(seed),
    units=repeated_steps,
    manifest=lambda *arguments: {},
    describe=lambda *arguments: [],
    columns=lambda config, score: {"half": score / 2},
    simulator=lambda config: {"simulator": "2.0"},
)
ACTIONS = {0: [0, 1, 2], 1: [2, 2, 2], 2: [0, 0, 0]}  # of each episode
SEEDS = [derive_seed(4, "evaluation", index) for index in range(2)]


@pytest.fixture
def folder(tmp_path):
    """A run of two evaluations, written by hand."""
    folder = RunFolder(tmp_path)
    folder.config.write_text("task: sum\n")
    folder.manifest.write_text(json.dumps({"starts": [{"versions": {"simulator": "2.0"}, "cpu": "a CPU"}]}))
    for index, step in enumerate((0, 40)):
        rows = []
        for episode, actions in ACTIONS.items():
            score = SEEDS[index] % 10 + sum(actions)
            rows.append({
                "task": "sum", "seed": 4, "evaluation": index, "agent_steps": step, "env_steps": 2 * step,
                "frames": step, "episode": episode, "score": float(score), "half": score / 2,
                "episode_agent_steps": 3, "success": float(sum(actions) >= 3),
                PLAYED: {"environment_seed": SEEDS[index], "actions": pack(actions)},
            })  # fmt: skip
        CsvLog(folder.episodes).append(*taken(step, rows))
        CsvLog(folder.evaluations).append(*rows)
    return folder


def check(folder, suite=SUITE):
    return verify(folder.evaluations, Config(), suite, Here())


def change(file, line, **values):
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[line] |= {name: str(value) for name, value in values.items()}
    write(file, rows)


def write(file, rows):
    file.unlink()
    CsvLog(file).append(*rows)


def test_what_was_played_is_found_as_in_the_table(folder):
    found = check(folder)
    assert found.problems == [] and (found.played, found.rows, found.largest) == (6, 6, 0.0)
    assert "6 of 6 episodes played again, as in the table, to the last digit; made with simulator 2.0" in str(found)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("score", 99.0, "score is 99.0 in the table"),
        ("half", 99.0, "half is 99.0 in the table"),
        ("success", 0.0, "success is 0.0 in the table and 1.0 when it is played again"),
        ("episode_agent_steps", 4, "episode_agent_steps is 4 in the table and 3"),
        ("seed", 5, "the seed is 5 in the table, not 4"),
        ("evaluation", 0, "the seed of its environment is not that of the run and the evaluation"),
        ("task", "product", "task is product in the table, not sum"),
        ("env_steps", 81, "env_steps is 81 in the table, not 80"),
        ("score", "nan", "score is nan in the table"),
    ],
)
def test_a_changed_value_of_the_table_is_named(folder, name, value, message):
    change(folder.evaluations, 3, **{name: value})
    problems = check(folder).problems
    assert any(line.startswith(f"agent step 40, episode 0: {message}") for line in problems), problems


@pytest.mark.parametrize(
    "values, message",
    [
        ({"actions": pack([0, 2, 1])}, "its stored actions or seed were changed"),  # the score is the same
        ({"actions": pack([0, 1])}, "it has 2 actions and is not over after them"),
        ({"actions": pack([0, 1, 2, 2])}, "it has 4 actions and is over after 3"),
        ({"actions": pack([0, 1, 3])}, "its action 2 is not in Discrete(3)"),
        ({"actions": pack([[0.5], [0.5], [0.5]])}, "its action 0 is not in Discrete(3)"),
        ({"actions": "nothing"}, "the actions are damaged"),
        ({"environment_seed": SEEDS[0]}, "the seed of its environment is not that of the run and the evaluation"),
        ({"environment_seed": "x"}, "invalid literal"),
    ],
)
def test_a_changed_episode_is_named(folder, values, message):
    change(folder.episodes, 3, **values)
    problems = check(folder).problems
    assert any(line.startswith(f"agent step 40, episode 0: {message}") for line in problems), problems


def test_rows_and_episodes_without_each_other_are_named(folder):
    for file, line in ((folder.evaluations, 1), (folder.episodes, 4)):
        rows = CsvLog(file).read()
        write(file, rows[:line] + rows[line + 1 :])
    assert check(folder).problems == [
        "agent step 0, episode 1: has no row in the table", "agent step 40, episode 1: is not stored",
    ]  # fmt: skip


def test_an_evaluation_of_an_older_version_is_not_counted(folder):
    write(folder.episodes, [row for row in CsvLog(folder.episodes).read() if row["agent_steps"] == "40"])
    found = check(folder)
    assert found.problems == [] and "3 of 6 episodes" in str(found)


def test_a_row_that_is_there_twice_is_refused(folder):
    CsvLog(folder.episodes).append(CsvLog(folder.episodes).read()[0])
    with pytest.raises(ConfigError, match="there twice"):
        check(folder)


@pytest.mark.parametrize("here, found", [("2.0", False), ("3.0", True)])
def test_the_bound_holds_for_scores_alone_and_on_another_simulator_alone(folder, here, found, monkeypatch):
    monkeypatch.setattr("harness.verification.cpu_name", lambda: "a CPU")
    suite = replace(SUITE, score_bound=lambda task: 0.5, simulator=lambda config: {"simulator": here})
    suite = replace(suite, columns=lambda config, score: {})
    score = float(CsvLog(folder.evaluations).read()[3]["score"])
    change(folder.evaluations, 3, score=score + 0.25)
    change(folder.evaluations, 4, score=100.0)
    verified = check(folder, suite)
    where = [line.partition(":")[0] for line in verified.problems if "score" in line]
    assert where == ["agent step 40, episode 1"] if found else ["agent step 40, episode 0", "agent step 40, episode 1"]
    assert (verified.largest, verified.bound) == ((0.25, 0.5) if found else (0.0, 0.0))
    assert ("simulator 2.0 (here 3.0), cpu a CPU" if found else "simulator 2.0, cpu a CPU") in str(verified)
