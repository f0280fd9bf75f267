"""n and discount that change: the published schedule, the windows, and updates of static shapes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from atari.annealing import Horizon, discount_at, make_horizon, n_step_at
from atari.config import ResetConfig
from atari.resets import number_due
from tests.atari.test_replay import NaiveReplay, make_replay, play, random_script
from tests.conftest import make_config
from tests.operations import OperationRecorder, fill, make_agent_and_replay
from tests.recipes import ATARI

CPU = torch.device("cpu")
BBF = SimpleNamespace(n_step_initial=10, n_step=3, discount_initial=0.97, discount=0.997, anneal_updates=10_000)
SMALL = ("auxiliary=none", "agent.n_step_initial=4", "agent.n_step=2", "agent.discount_initial=0.9")
BY_UPDATES = {  # since the last reset: n, discount
    426: (10, 0.972802984), 427: (9, 0.972809246), 1000: (9, 0.976170153), 2500: (7, 0.983129760),
    3581: (6, 0.986847108), 5965: (5, 0.992403365), 7500: (4, 0.994665162), 8716: (4, 0.995967993),
    9999: (3, 0.996999309), 10_000: (3, 0.997), 79_991: (3, 0.997),
}  # fmt: skip
# Updates done before: released call t, updates since the last reset, n, discount.
RATIO_2 = {
    0: (2001, 0, 10, 0.97), 1: (2001, 1, 10, 0.970006907), 100: (2051, 100, 10, 0.970682883),
    5000: (4501, 5000, 5, 0.990513167), 10_000: (7001, 10_000, 3, 0.997), 19_999: (12_000, 19_999, 3, 0.997),
    20_000: (12_001, 20_000, 3, 0.997), 20_001: (12_001, 20_001, 3, 0.997), 24_016: (14_009, 24_016, 3, 0.997),
    24_032: (14_017, 24_032, 3, 0.997), 25_000: (14_501, 25_000, 3, 0.997), 36_003: (20_002, 36_003, 3, 0.997),
    36_004: (20_003, 0, 10, 0.97), 36_007: (20_004, 3, 10, 0.970020716), 36_008: (20_005, 4, 10, 0.970027618),
    39_999: (22_000, 3995, 6, 0.988043027), 40_000: (22_001, 3996, 6, 0.988045780),
    40_001: (22_001, 3997, 6, 0.988048532), 64_024: (34_013, 28_020, 3, 0.997), 76_006: (40_004, 0, 10, 0.97),
    195_999: (100_000, 79_991, 3, 0.997),
}  # fmt: skip
RATIO_8 = {
    0: (2001, 0, 10, 0.97), 1: (2001, 1, 10, 0.970006907), 100: (2013, 100, 10, 0.970682883),
    5000: (2626, 5000, 5, 0.990513167), 10_000: (3251, 10_000, 3, 0.997), 19_999: (4500, 19_999, 3, 0.997),
    20_000: (4501, 20_000, 3, 0.997), 20_001: (4501, 20_001, 3, 0.997), 24_016: (5003, 0, 10, 0.97),
    24_032: (5005, 16, 10, 0.970110321), 25_000: (5126, 984, 9, 0.976082199), 36_004: (6501, 11_988, 3, 0.997),
    36_007: (6501, 11_991, 3, 0.997), 36_008: (6502, 11_992, 3, 0.997), 39_999: (7000, 15_983, 3, 0.997),
    40_000: (7001, 15_984, 3, 0.997), 40_001: (7001, 15_985, 3, 0.997), 64_024: (10_004, 0, 10, 0.97),
    76_006: (11_501, 11_982, 3, 0.997), 195_999: (26_500, 11_951, 3, 0.997),
}  # fmt: skip


def test_the_published_schedule():
    for updates, (n, discount) in BY_UPDATES.items():
        assert (n_step_at(BBF, updates), pytest.approx(discount, abs=1e-9)) == (n, discount_at(BBF, updates))
    changes = [c for c in range(1, 10_001) if n_step_at(BBF, c) != n_step_at(BBF, c - 1)]
    assert changes == [427, 1350, 2390, 3579, 4966, 6633, 8720]
    fixed = SimpleNamespace(**vars(BBF) | {"n_step_initial": None, "discount_initial": None})
    assert (n_step_at(fixed, 0), discount_at(fixed, 0)) == (3, pytest.approx(0.997))


@pytest.mark.parametrize("ratio, every, table", [(2, 20_000, RATIO_2), (8, 5000, RATIO_8)])
def test_the_schedule_of_a_run(ratio, every, table):
    """Resets and updates counted as the loop counts them; an iteration s is the released call s + 1."""
    resets, found, done, cycle = ResetConfig(every, 100_000, 0.5, 0.5, "shrink", "network"), {}, 0, 0
    for step in range(2000, 100_000 if ratio == 2 else 26_600):
        for _ in range(ratio):
            if done in table:
                found[done] = (step + 1, cycle, n_step_at(BBF, cycle), pytest.approx(discount_at(BBF, cycle), abs=1e-9))
            done, cycle = done + 1, cycle + 1
        cycle = 0 if number_due(resets, step) else cycle
    assert found == table and (ratio == 8 or done == 196_000)


@pytest.mark.parametrize("n_step_state", ["after", "last"])
@pytest.mark.parametrize("n_step_done", ["one_step", "n_step"])
def test_every_window_equals_a_naive_replay_s(n_step_done, n_step_state):
    replay = make_replay(60, 4, 6, 4, n_step_done, n_step_state=n_step_state)
    naive, script = NaiveReplay(60, 4, 6, 4, n_step_done), list(random_script(3, 90))
    play(replay, script)
    for step in script:
        naive.store(*step)
    starts = naive.samplable()
    indices = torch.tensor([start % 60 for start in starts])
    for n, discount in ((1, 0.5), (3, 0.9), (6, 0.97)):
        horizon = Horizon(6, torch.tensor(n), torch.tensor(discount, dtype=torch.float64))
        batch = replay.gather(indices, 0.4, None, horizon)
        earlier = n_step_state == "last"
        for number, start in enumerate(starts):
            ends = [k for k in range(n) if naive.done[start + k]]
            counted = range(min(ends[0] + 1, n)) if ends else range(n)
            returns = sum(discount**k * naive.rewards[start + k] for k in counted)
            assert batch.returns[number] == pytest.approx(returns, abs=1e-6)
            following = min([n - earlier, *ends])
            assert np.array_equal(batch.next_obs[number], naive.seen[start + following])
            flags = [k for k in ends if k < n - earlier] if n_step_done == "n_step" else [k for k in ends if k == 0]
            assert bool(batch.done[number]) == bool(flags)
        assert horizon.bootstrap() == pytest.approx(discount**n)


def make(*overrides):
    config = make_config("unused", *SMALL, *overrides)
    agent, replay = make_agent_and_replay(ATARI, config, CPU)
    fill(replay, config)
    return agent, replay


def test_at_its_start_it_learns_as_with_fixed_values():
    off = ("agent.n_step_initial=null", "agent.discount_initial=null", "agent.n_step=4", "agent.discount=0.9")
    annealed, fixed = make("agent.anneal_updates=100"), make(*off)
    found, expected = (agent.update(replay, 60, "update") for agent, replay in (annealed, fixed))
    assert (found.pop("n_step"), found.pop("discount")) == (4, pytest.approx(0.9))
    assert found.keys() == expected.keys() and make_horizon(fixed[0].config, CPU) is None
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_step_state", ["after", "last"])
def test_operations_and_shapes_do_not_depend_on_n(n_step_state):
    agent, replay = make("agent.anneal_updates=2", f"agent.n_step_state={n_step_state}", "agent.n_step_done=n_step")
    recorded, n = [], []
    for step in range(60, 64):
        with OperationRecorder() as recorder:
            metrics = agent.update_on_device(replay, *agent.begin_update(replay, step, "update"))
        recorded.append(recorder.calls)
        n.append(int(metrics["n_step"]))
    assert n == [4, 3, 2, 2] and recorded[1] == recorded[2] == recorded[3]
