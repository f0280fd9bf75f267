from types import SimpleNamespace

import numpy as np
import pytest
import torch

from atari.replay import SequenceReplay
from auxiliaries.slot import Reads
from tests.golden.atari_e import replay_e
from tests.golden.check import DATA, assert_all
from tests.operations import OperationRecorder

FRAME_SHAPE = (3, 2)
FIELDS = ("frames", "actions", "rewards", "first", "ended")
DISCOUNT = 0.97
# capacity, seq_len, n_step, stack: usual, the paper's windows, n-step beyond the window, no stack
SIZES = [(40, 4, 3, 4), (60, 16, 10, 4), (40, 3, 6, 3), (24, 4, 1, 1)]


def make_replay(
    capacity=40, seq_len=4, n_step=3, stack=4, n_step_done="one_step", frame_shape=FRAME_SHAPE, device="cpu",
    n_step_state="after", new_priority="default", stratified=False,
):  # fmt: skip
    config = SimpleNamespace(
        capacity=capacity, window=seq_len, alpha=0.5, default_priority=1.0, priority_eps=1e-5,
        new_priority=new_priority, stratified=stratified,
    )  # fmt: skip
    agent = SimpleNamespace(
        n_step=n_step, longest_n_step=n_step, discount=DISCOUNT, n_step_done=n_step_done, n_step_state=n_step_state
    )
    return SequenceReplay(config, agent, frame_shape, stack, device)


def everything(replay, steps=None):
    return Reads("windows", steps or replay.config.window, FIELDS)


def random_script(seed, steps, end_rate=0.12):
    """Steps as `store` takes them: observations, rewards, and ends of each kind, some of them in bursts or at once."""
    rng = np.random.default_rng(seed)
    burst = 0
    for _ in range(steps):
        burst = max(burst - 1, 5 if rng.random() < 0.03 else 0)
        end = rng.random() < (0.5 if burst else end_rate)
        terminated, truncated, life_lost = map(bool, rng.permutation([end, end and rng.random() < 0.2, False]))
        observation = rng.integers(1, 256, (2, *FRAME_SHAPE), dtype=np.uint8)
        action, reward = int(rng.integers(6)), float(rng.integers(-1, 2))
        yield observation, action, reward, terminated, truncated, None, {"life_lost": life_lost}


def play(replay, script):
    for step in script:
        replay.begin_step()
        replay.store(*step)


class NaiveReplay:
    """Keeps everything by global step number, and reads windows off the lists one step at a time."""

    def __init__(self, capacity, seq_len, n_step, stack, n_step_done):
        self.capacity, self.seq_len, self.n_step = capacity, seq_len, n_step
        self.stack, self.n_step_done = stack, n_step_done
        self.seen, self.actions, self.rewards, self.done = [], [], [], []
        self.episode = []

    def store(self, observation, action, reward, terminated, truncated, next_observation, info):
        frame = observation[-1]
        self.episode.append(frame)
        blank = [np.zeros_like(frame)] * (self.stack - 1)
        self.seen.append(np.stack((blank + self.episode)[-self.stack :]))
        self.actions.append(action)
        self.rewards.append(reward)
        self.done.append(terminated or truncated or info["life_lost"])
        if self.done[-1]:
            self.episode = []

    def samplable(self):
        """Starts with 1 + n + K newer steps, with a stack behind them, and not about to be overwritten."""
        count, behind = len(self.done), max(self.stack - 1, 1)
        newest = count - 1 - (1 + self.n_step + self.seq_len)
        return list(range(max(behind, count - self.capacity + behind), newest + 1))

    def batch(self, start):
        steps, n = self.seq_len, self.n_step
        ends = [k for k in range(max(steps, n)) if self.done[start + k]]
        end = ends[0] if ends else max(steps, n)
        returns, alive = 0.0, True
        for k in range(n):
            returns += DISCOUNT**k * self.rewards[start + k] * alive
            alive = alive and not self.done[start + k]
        return {
            "obs": self.seen[start],
            "next_obs": self.seen[start + min(n, end)],
            "action": self.actions[start],
            "returns": returns,
            "done": self.done[start] if self.n_step_done == "one_step" else not alive,
            "indices": start % self.capacity,
            "frames": [self.seen[start + min(k, end)] for k in range(steps)],
            "actions": self.actions[start : start + steps],
            "rewards": [self.rewards[start + k] if k <= end else 0.0 for k in range(steps)],
            "first": [self.done[start + k - 1] for k in range(steps)],
            "ended": [k >= end for k in range(steps)],
        }


def assert_equal_batches(actual, expected):
    for name, value in vars(expected).items():
        other = getattr(actual, name)
        assert torch.equal(other, value) if value is not None else other is None, name


def test_golden_files():
    assert_all(replay_e(DATA / "atari"))


@pytest.mark.parametrize("n_step_done", ["one_step", "n_step"])
@pytest.mark.parametrize("capacity, seq_len, n_step, stack", SIZES)
def test_every_window_equals_a_naive_replay(capacity, seq_len, n_step, stack, n_step_done):
    for seed in range(3):
        replay = make_replay(capacity, seq_len, n_step, stack, n_step_done)
        naive = NaiveReplay(capacity, seq_len, n_step, stack, n_step_done)
        for number, step in enumerate(random_script(seed, 3 * capacity + 7, end_rate=(0.02, 0.12, 0.4)[seed])):
            play(replay, [step])
            naive.store(*step)
            starts = naive.samplable()
            slots = sorted(start % capacity for start in starts)
            assert replay.priorities.leaves.nonzero().flatten().tolist() == slots
            if not starts or number % 5:
                continue
            batch = replay.gather(torch.tensor(starts) % capacity, 1.0, everything(replay))
            expected = [naive.batch(start) for start in starts]
            for name in expected[0]:
                axis = 1 if name in FIELDS else 0
                values = np.stack([one[name] for one in expected], axis=axis)
                if name == "returns":
                    np.testing.assert_allclose(batch.returns.numpy(), values, rtol=1e-6, atol=1e-6)
                else:
                    np.testing.assert_array_equal(getattr(batch, name).numpy(), values, err_msg=name)


def test_a_window_across_an_end_written_out():
    """Observation s shows the number s + 1; the step 10 ends a life."""
    replay = make_replay()
    for s in range(30):
        observation = np.full((1, *FRAME_SHAPE), s + 1, dtype=np.uint8)
        play(replay, [(observation, s % 6, 1.0 + s, False, False, None, {"life_lost": s == 10})])
    batch = replay.gather(torch.tensor([9]), 1.0, everything(replay))
    assert batch.obs[0, :, 0, 0].tolist() == [7, 8, 9, 10]
    assert batch.next_obs[0, :, 0, 0].tolist() == [8, 9, 10, 11]
    assert batch.frames[:, 0, :, 0, 0].tolist() == [[7, 8, 9, 10], [8, 9, 10, 11], [8, 9, 10, 11], [8, 9, 10, 11]]
    assert batch.actions.flatten().tolist() == [3, 4, 5, 0]
    assert batch.rewards.flatten().tolist() == [10.0, 11.0, 0.0, 0.0]
    assert batch.first.flatten().tolist() == [False, False, True, False]
    assert batch.ended.flatten().tolist() == [False, True, True, True]
    assert batch.returns.item() == pytest.approx(10.0 + DISCOUNT * 11.0)
    assert batch.done.tolist() == [False]
    after = replay.gather(torch.tensor([12]), 1.0, None)
    assert after.obs[0, :, 0, 0].tolist() == [0, 0, 12, 13]


def test_a_shorter_read_is_the_beginning_of_the_window():
    """The rules of an end hold over the whole window, whatever is read of it."""
    replay = make_replay()
    play(replay, random_script(0, 70, end_rate=0.3))
    indices = torch.arange(20, 35)
    whole, part = (replay.gather(indices, 1.0, everything(replay, steps)) for steps in (None, 2))
    for name, value in vars(whole).items():
        assert getattr(part, name).equal(value[:2] if name in FIELDS else value), name
    transitions = replay.gather(indices, 1.0, Reads("transitions", 1, ()))
    assert transitions.frames is None and transitions.obs.equal(whole.obs)


def test_unnamed_fields_are_not_gathered_and_change_nothing():
    replay = make_replay()
    play(replay, random_script(0, 70))
    indices = torch.tensor([0, 5, 22])
    bare, full = replay.gather(indices, 0.5, None), replay.gather(indices, 0.5, everything(replay))
    for name, value in vars(bare).items():
        assert value is None if name in FIELDS else torch.equal(value, getattr(full, name)), name


@pytest.mark.parametrize("capacity, seq_len, n_step, stack", SIZES)
def test_overlapped_order_equals_released_order(capacity, seq_len, n_step, stack):
    """Sampling between begin_step and store returns what sampling after store does, whatever the slot still holds."""
    released, overlapped = (make_replay(capacity, seq_len, n_step, stack) for _ in range(2))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    kl = torch.Generator().manual_seed(1)
    compared = 0
    for number, step in enumerate(random_script(3, 3 * capacity + 5)):
        released.begin_step()
        released.store(*step)
        overlapped.begin_step()
        unread = np.full((1, *FRAME_SHAPE), 255, np.uint8)
        overlapped.store(unread, 5, 99.0, True, True, None, {"life_lost": True})
        if number > overlapped.lag + overlapped.history:
            for _ in range(2):
                batches = [
                    replay.sample(8, generator, 0.5, everything(replay))
                    for replay, generator in zip((released, overlapped), generators, strict=True)
                ]
                assert_equal_batches(*batches)
                new_kl = torch.rand(8, generator=kl) + 0.01
                released.update_priorities(batches[0].indices, new_kl)
                overlapped.update_priorities(batches[1].indices, new_kl)
            starts = released.priorities.leaves.nonzero().flatten()
            assert_equal_batches(*(replay.gather(starts, 0.5, everything(replay)) for replay in (released, overlapped)))
            compared += 1
        overlapped.steps_stored -= 1
        overlapped.store(*step)
    assert compared > 2 * capacity


def test_samples_follow_the_priorities():
    replay = make_replay()
    play(replay, random_script(0, 90))
    starts = replay.priorities.leaves.nonzero().flatten()
    replay.update_priorities(starts, torch.linspace(0.01, 4.0, len(starts)))
    batch = replay.sample(100_000, torch.Generator().manual_seed(0), 0.4, None)
    shares = replay.priorities.leaves / replay.priorities.total
    counts = torch.bincount(batch.indices, minlength=replay.capacity) / 100_000
    assert (counts - shares).abs().max() < 4 * (shares.max() / 100_000).sqrt()
    expected = (shares[batch.indices] / shares[starts].min()) ** -0.4
    torch.testing.assert_close(batch.weights.double(), expected, rtol=1e-3, atol=0)  # 1e-5 is added to each leaf
    assert batch.weights.max() == 1.0


def test_beta_may_be_a_tensor():
    replay = make_replay()
    play(replay, random_script(0, 60))
    batches = [replay.sample(8, torch.Generator().manual_seed(0), beta, None) for beta in (0.5, torch.tensor(0.5))]
    assert_equal_batches(*batches)


def recorded_update(seed, steps):
    replay = make_replay()
    play(replay, random_script(seed, steps, end_rate=0.01 if seed else 0.5))
    generator, beta = torch.Generator().manual_seed(seed), torch.tensor(0.5)
    with OperationRecorder() as recorder:
        replay.begin_step()
        batch = replay.sample(8, generator, beta, everything(replay))
        replay.update_priorities(batch.indices, torch.ones(8))
    return recorder.calls


def test_an_update_never_waits_for_the_device_and_its_shapes_never_depend_on_data():
    assert recorded_update(0, 30) == recorded_update(1, 100)


def test_memory_of_the_full_size():
    replay = make_replay(100_000, 16, 10, 4, frame_shape=(84, 84), device="meta")
    assert 0.70e9 < replay.nbytes <= 0.75e9


@pytest.mark.parametrize("steps", [25, 40, 57, 131])
def test_state_and_rows_continue_as_if_nothing_had_happened(steps):
    script = list(random_script(5, steps + 60))
    original, restored = make_replay(), make_replay()
    play(original, script[:steps])
    play(restored, random_script(6, 90))  # what a restored replay held before must not matter
    generator = torch.Generator().manual_seed(0)
    original.update_priorities(torch.tensor([7, 9]), torch.tensor([0.3, 2.0]))

    leaves = restored.priorities.leaves
    oldest = max(0, steps - original.capacity)
    for start in range(oldest, steps, 11):
        restored.load_rows(start, original.rows(start, min(start + 11, steps)))
    state = original.state()
    original_generator_state = generator.get_state()
    restored.load_state(state)
    assert restored.priorities.leaves is leaves

    samples = []
    for replay in (original, restored):
        generator.set_state(original_generator_state)
        samples.append([])
        for step in script[steps:]:
            play(replay, [step])
            samples[-1].append(replay.sample(8, generator, 0.7, everything(replay)))
            replay.update_priorities(samples[-1][-1].indices, torch.linspace(0.1, 3.0, 8))
    for one, other in zip(*samples, strict=True):
        assert_equal_batches(one, other)


def test_a_saved_state_does_not_follow_the_replay():
    replay = make_replay()
    play(replay, random_script(0, 30))
    state, rows = replay.state(), replay.rows(0, 30)
    before = {name: tensor.clone() for name, tensor in (state | rows).items() if isinstance(tensor, torch.Tensor)}
    play(replay, random_script(1, 60))
    assert state["steps_stored"] == 30
    assert all(torch.equal((state | rows)[name], tensor) for name, tensor in before.items())


def test_rows_that_are_not_stored_are_refused():
    replay = make_replay()
    play(replay, random_script(0, 50))
    for start, stop in ((9, 20), (40, 51)):
        with pytest.raises(ValueError, match=r"10\.\.50"):
            replay.rows(start, stop)
    assert len(replay.rows(10, 50)["frames"]) == replay.capacity


def test_a_state_of_another_capacity_is_refused():
    with pytest.raises(ValueError, match="41 leaves"):
        make_replay().load_state(make_replay(capacity=41).state())


def test_sample_before_the_first_complete_window_and_store_before_begin_step_are_refused():
    replay = make_replay()
    script = list(random_script(0, 12))
    with pytest.raises(RuntimeError, match="begin_step"):
        replay.store(*script[0])
    play(replay, script[:11])
    with pytest.raises(RuntimeError, match="before step 12"):
        replay.require_window()
    play(replay, script[11:])
    replay.require_window()
    assert replay.sample(2, torch.Generator().manual_seed(0), 1.0, None).indices.tolist() == [3, 3]
