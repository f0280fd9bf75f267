import numpy as np
import pytest
import torch

from atari.method import epsilon_greedy
from atari.suite import units
from harness.parts import evaluate_weights
from harness.run_folder import RunFolder
from tests.conftest import make_config
from tests.recipes import ATARI


def test_units():
    assert units(make_config("unused"), 100) == {"agent_steps": 100, "env_steps": 100, "frames": 400}


def test_an_evaluation_depends_on_weights_index_and_seed_alone(finished_run):
    weights = RunFolder(finished_run).saved_weights()

    def lengths_and_scores(index, *overrides):
        config = make_config(finished_run, "evaluation.horizon=40", "evaluation.epsilon=0.5", *overrides)
        finished = []
        rows = evaluate_weights(config, ATARI, torch.device("cpu"), weights, index, None, finished.append)
        assert finished[-1] == config.evaluation.episodes and [row["episode"] for row in rows] == [0, 1]
        return rows

    assert lengths_and_scores(0) == lengths_and_scores(0)


def test_evaluation_explores_with_its_epsilon():
    class Greedy:
        actions = 6

        def act(self, observations):
            return np.zeros(len(observations), np.int64)

    generator, first = np.random.default_rng(0), np.zeros(100, bool)
    chosen = np.stack([epsilon_greedy(Greedy(), 0.3, generator, np.zeros((100, 1)), first) for _ in range(200)])
    assert np.mean(chosen != 0) == pytest.approx(0.3 * 5 / 6, abs=0.01)
    assert set(chosen.flatten()) == set(range(6))
