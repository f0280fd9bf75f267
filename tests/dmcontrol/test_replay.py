from types import SimpleNamespace

import numpy as np
import pytest
import torch

from auxiliaries.slot import Reads
from dmcontrol.replay import TransitionReplay
from harness.checkpoint import Checkpoints
from harness.config import ConfigError
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_j import replay_j
from tests.operations import OperationRecorder

FRAME_SHAPE = (3, 2, 2)
ACTION_SIZE = 2
FIELDS = ("frames", "actions", "rewards", "first", "ended")
# Usual, windows as long as an episode, no stack, episodes much shorter than the ring of frames is made for.
SIZES = [
    SimpleNamespace(capacity=60, seq_len=5, stack=3, min_episode=8, episode_steps=(8, 14)),
    SimpleNamespace(capacity=50, seq_len=9, stack=4, min_episode=10, episode_steps=(10, 12)),
    SimpleNamespace(capacity=40, seq_len=4, stack=1, min_episode=1, episode_steps=(1, 9)),
    SimpleNamespace(capacity=60, seq_len=3, stack=3, min_episode=30, episode_steps=(1, 7)),
]
EARLY = SIZES[-1]


def make_replay(sizes=SIZES[0], device="cpu", frame_shape=FRAME_SHAPE, action_size=ACTION_SIZE):
    return TransitionReplay(
        sizes.capacity, sizes.seq_len, frame_shape, sizes.stack, action_size, device, sizes.min_episode
    )


def reads(replay, *fields):
    return Reads("windows", replay.window, fields or FIELDS)


def with_episodes(sizes, shortest, longest):
    return SimpleNamespace(**vars(sizes) | {"episode_steps": (shortest, longest)})


def numbered_frame(number):
    """A frame that no other number has: every channel's four bytes spell a number of their own."""
    return np.arange(3 * number, 3 * number + 3, dtype=np.uint32).view(np.uint8).reshape(FRAME_SHAPE)


class Script:
    """Random episodes, step by step, and what a store of whole stacks would hold of them.

    The reward of a step is its number. Frames are numbered from `first_frame`.
    """

    def __init__(self, sizes, seed=0, first_frame=0):
        self.sizes, self.rng, self.frame = sizes, np.random.default_rng(seed), first_frame
        self.first_frame = first_frame
        self.shown = []  # the oldest frame of each observation, counted from 0
        self.obs, self.next_obs, self.actions = [], [], []
        self.terminated, self.last, self.first = [], [], []
        self.left = 0  # steps of the running episode

    def __len__(self):
        return len(self.obs)

    def play(self, replays, steps):
        for _ in range(steps):
            step = self.step()
            for replay in replays:
                replay.begin_step()
                replay.store(*step)

    def step(self):
        """The next step, as `store` takes it."""
        self.first.append(self.left == 0)
        if self.first[-1]:
            lowest, highest = self.sizes.episode_steps
            self.left = int(self.rng.integers(lowest, highest + 1))
            self.stack = [self._new_frame()] * self.sizes.stack
        self.shown.append(min(self.stack) - self.first_frame)
        self.obs.append(self._stacked())
        self.stack = [*self.stack[1:], self._new_frame()]
        self.next_obs.append(self._stacked())
        self.actions.append(self.rng.uniform(-1, 1, ACTION_SIZE).astype(np.float32))
        self.left -= 1
        last = self.left == 0
        self.last.append(last)
        self.terminated.append(bool(last and self.rng.random() < 0.5))
        truncated = bool(last and (not self.terminated[-1] or self.rng.random() < 0.2))
        reward = float(len(self) - 1)
        return self.obs[-1], self.actions[-1], reward, self.terminated[-1], truncated, self.next_obs[-1], {}

    def _new_frame(self):
        self.frame += 1
        return self.frame - 1

    def _stacked(self):
        return np.concatenate([numbered_frame(number) for number in self.stack])

    def intact(self, frame_capacity):
        """Steps among the last `capacity` none of whose frames was overwritten."""
        overwritten = self.frame - self.first_frame - frame_capacity
        return [
            step
            for step in range(max(0, len(self) - self.sizes.capacity), len(self))
            if self.shown[step] >= overwritten
        ]

    def starts(self, frame_capacity):
        """Starts of windows of intact steps that neither end an episode nor are the newest."""
        intact, length = set(self.intact(frame_capacity)), self.sizes.seq_len
        usable = [step in intact and not self.last[step] for step in range(len(self) - 1)]
        return [start for start in range(len(usable) - length + 1) if all(usable[start : start + length])]

    def assert_transitions(self, batch, allowed):
        steps = batch.reward.long().numpy()
        assert set(np.unique(steps)) <= set(allowed)
        np.testing.assert_array_equal(batch.obs.numpy(), np.stack(self.obs)[steps])
        np.testing.assert_array_equal(batch.next_obs.numpy(), np.stack(self.next_obs)[steps])
        np.testing.assert_array_equal(batch.action.numpy(), np.stack(self.actions)[steps])
        np.testing.assert_array_equal(batch.bootstrap.numpy(), 1.0 - np.array(self.terminated)[steps])
        return steps

    def assert_windows(self, batch, allowed):
        starts = batch.rewards[0].long().numpy()
        assert set(np.unique(starts)) <= set(allowed)
        steps = starts + np.arange(self.sizes.seq_len)[:, None]
        np.testing.assert_array_equal(batch.rewards.numpy(), steps)
        np.testing.assert_array_equal(batch.frames.numpy(), np.stack(self.obs)[steps])
        np.testing.assert_array_equal(batch.actions.numpy(), np.stack(self.actions)[steps])
        np.testing.assert_array_equal(batch.first.numpy(), np.array(self.first)[steps])
        assert not batch.ended.any()
        return starts


def assert_equal_batches(actual, expected):
    for name, value in vars(expected).items():
        other = getattr(actual, name)
        assert torch.equal(other, value) if value is not None else other is None, name


def assert_uniform(drawn, population):
    """Every count is within six standard deviations, and every member occurs."""
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == sorted(population)
    share = 1 / len(population)
    assert np.abs(counts / len(drawn) - share).max() < 6 * np.sqrt(share / len(drawn))


def assert_equal_draws(actual, expected, seed=0):
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    draws = [
        (replay.sample(50, generator), replay.windows(50, generator, reads(replay)))
        for replay, generator in zip((actual, expected), generators, strict=True)
    ]
    for one, other in zip(*draws, strict=True):
        assert_equal_batches(one, other)


def arrays(replay):
    """Everything that lives as long as the replay."""
    return [*replay.ring.columns.values(), replay.frames.frames, replay.starts.leaves, replay.bounds]


def test_golden_file():
    assert_all(replay_j(DATA / "dmcontrol"))


@pytest.mark.parametrize("sizes", SIZES)
def test_every_draw_equals_a_store_of_whole_stacks(sizes):
    """A million draws over all sizes, transitions and windows; before the first wrap and after several."""
    script, replay = Script(sizes, seed=1), make_replay(sizes)
    generator = torch.Generator().manual_seed(0)
    for _ in range(7):
        script.play([replay], sizes.capacity // 2 + 7)
        intact, starts = (ask(replay.frames.capacity) for ask in (script.intact, script.starts))
        assert_uniform(script.assert_transitions(replay.sample(18_000, generator), intact), intact)
        assert_uniform(script.assert_windows(replay.windows(18_000, generator, reads(replay)), starts), starts)
        assert len(replay.windows(1, generator, reads(replay, "actions")).actions) == sizes.seq_len


@pytest.mark.parametrize("sizes", SIZES)
def test_oldest_step_and_starts_after_every_store(sizes):
    for seed in range(3):
        script, replay = Script(sizes, seed), make_replay(sizes)
        for _ in range(3 * sizes.capacity):
            script.play([replay], 1)
            intact, starts = (ask(replay.frames.capacity) for ask in (script.intact, script.starts))
            assert intact == list(range(replay.oldest, len(script)))
            assert replay.bounds.tolist() == [replay.oldest, len(script)]
            slots = sorted(start % sizes.capacity for start in starts)
            assert replay.starts.leaves.nonzero().flatten().tolist() == slots


def test_usual_episodes_keep_the_last_capacity_steps_and_early_ends_keep_fewer():
    for sizes in SIZES:
        script, replay = Script(sizes), make_replay(sizes)
        script.play([replay], 4 * sizes.capacity)
        lost = replay.oldest - 3 * sizes.capacity
        assert lost > 5 if sizes is EARLY else lost == 0


def test_an_episode_written_out():
    """Five steps from frame 0 on, terminated, then a new episode from frame 6 on; frames show their number."""
    sizes = SimpleNamespace(capacity=20, seq_len=2, stack=3, min_episode=5)
    replay = make_replay(sizes, frame_shape=(1, 1, 1), action_size=1)
    for episode_frames, ended in ((range(0, 6), True), (range(6, 10), False)):
        shown = [episode_frames[0]] * 3
        for frame in episode_frames[1:]:
            observation, shown = shown, [*shown[1:], frame]
            stacks = (np.array(stack, dtype=np.uint8).reshape(3, 1, 1) for stack in (observation, shown))
            last = ended and frame == episode_frames[-1]
            replay.store(next(stacks), np.array([frame]), float(replay.steps_stored), last, False, next(stacks), {})
    generator = torch.Generator().manual_seed(0)
    batch = replay.sample(200, generator)
    pictures = torch.cat((batch.obs, batch.next_obs), 1).flatten(1).tolist()
    bootstrap = batch.bootstrap.tolist()
    seen = {int(step): (*pictures[i], bootstrap[i]) for i, step in enumerate(batch.reward.tolist())}
    assert seen == {
        0: (0, 0, 0, 0, 0, 1, 1.0),
        1: (0, 0, 1, 0, 1, 2, 1.0),
        2: (0, 1, 2, 1, 2, 3, 1.0),
        3: (1, 2, 3, 2, 3, 4, 1.0),
        4: (2, 3, 4, 3, 4, 5, 0.0),
        5: (6, 6, 6, 6, 6, 7, 1.0),
        6: (6, 6, 7, 6, 7, 8, 1.0),
        7: (6, 7, 8, 7, 8, 9, 1.0),
    }
    windows = replay.windows(200, generator, reads(replay, "rewards", "first"))
    assert set(map(tuple, windows.rewards.T.tolist())) == {(0, 1), (1, 2), (2, 3), (5, 6)}
    assert torch.equal(windows.first, (windows.rewards == 0) | (windows.rewards == 5))


def test_a_shorter_read_is_the_beginning_of_the_window():
    script, replay = Script(SIZES[0]), make_replay()
    script.play([replay], 70)
    whole = replay.windows(9, torch.Generator().manual_seed(0), reads(replay))
    part = replay.windows(9, torch.Generator().manual_seed(0), Reads("windows", 2, FIELDS))
    assert all(torch.equal(getattr(part, name), getattr(whole, name)[:2]) for name in FIELDS)


def test_fields_not_asked_for_are_none_and_change_nothing():
    script, replay = Script(SIZES[0]), make_replay()
    script.play([replay], 70)
    full = replay.windows(9, torch.Generator().manual_seed(0), reads(replay))
    for name in FIELDS:
        batch = replay.windows(9, torch.Generator().manual_seed(0), reads(replay, name))
        assert [field for field, value in vars(batch).items() if value is not None] == [name]
        assert torch.equal(getattr(batch, name), getattr(full, name))


def test_draws_never_wait_for_the_device_and_their_shapes_never_depend_on_data():
    recorded = []
    for episode_steps, steps in (((8, 14), 30), ((8, 14), 200), ((1, 9), 300)):
        replay = make_replay()
        Script(with_episodes(SIZES[0], *episode_steps)).play([replay], steps)
        generator = torch.Generator().manual_seed(0)
        with OperationRecorder() as recorder:
            replay.sample(8, generator)
            replay.windows(8, generator, reads(replay))
        recorded.append(recorder.calls)
    assert recorded[0] == recorded[1] == recorded[2] and len(recorded[0]) > 20


def test_storing_never_waits_for_the_device():
    script, replay = Script(EARLY), make_replay(EARLY)
    with OperationRecorder():
        script.play([replay], 200)


@pytest.mark.parametrize("min_episode", [125, 250, 500])
def test_memory_of_the_full_size(min_episode):
    sizes = SimpleNamespace(capacity=100_000, seq_len=16, stack=3, min_episode=min_episode)
    replay = make_replay(sizes, device="meta", frame_shape=(3, 100, 100), action_size=6)
    assert 3.0e9 < replay.nbytes <= 3.1e9


# One piece; a piece each step; several wraps; pieces larger than the ring, and with steps no longer valid.
SAVES = [(37,), tuple(range(45, 70)), (25, 50, 75, 100, 125, 150, 175, 200), (60, 200, 215), (55, 100, 140)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("saves", SAVES)
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(sizes, saves, tmp_path):
    """Within an episode, and right after an end."""
    script, original = Script(sizes, seed=2), make_replay(sizes)
    checkpoints = Checkpoints(tmp_path, sizes.capacity, "hash")
    for step in saves:
        script.play([original], step - len(script))
        checkpoints.save(step, {"replay": original.state()}, original.rows)
        checkpoints.wait()
        if script.last[-1] or step % 10 == 0 or step == saves[-1]:
            restored = restored_from(tmp_path, sizes)
            assert_equal_draws(restored, original)
    for _ in range(sizes.capacity // 3):
        script.play([original, restored], 5)
        assert_equal_draws(restored, original)


def restored_from(folder, sizes):
    """A replay from the newest checkpoint; what it held before must not matter."""
    replay = make_replay(sizes)
    Script(sizes, seed=7, first_frame=10_000).play([replay], 2 * sizes.capacity + 11)
    before = [array.data_ptr() for array in arrays(replay)]
    step, state = Checkpoints(folder, sizes.capacity, "hash").load(replay.load_rows, print)
    replay.load_state(state["replay"])
    assert replay.steps_stored == step
    assert [array.data_ptr() for array in arrays(replay)] == before, "loading may not rebind anything"
    return replay


@pytest.mark.parametrize("steps", [20, 41])
def test_a_run_is_prolonged_with_a_larger_replay(steps, tmp_path):
    larger = SIZES[0]
    smaller, script = SimpleNamespace(**vars(larger) | {"capacity": steps}), Script(larger, seed=3)
    first, expected = make_replay(smaller), make_replay(larger)
    script.play([first, expected], steps)
    with Checkpoints(tmp_path, steps, "hash") as checkpoints:
        checkpoints.save(steps, {"replay": first.state()}, first.rows)
    prolonged = restored_from(tmp_path, larger)
    for _ in range(larger.capacity):
        assert_equal_draws(prolonged, expected)
        script.play([prolonged, expected], 3)


def test_a_replay_that_overwrote_steps_goes_on_in_none_of_another_size():
    sizes = SIZES[0]
    full, larger = make_replay(sizes), make_replay(SimpleNamespace(**vars(sizes) | {"capacity": 2 * sizes.capacity}))
    Script(sizes).play([full], sizes.capacity + 1)
    with pytest.raises(ValueError, match="60 leaves, this replay 120"):
        larger.load_state(full.state())
    with pytest.raises(ValueError, match="120 leaves, this replay 60"):
        full.load_state(larger.state())


def test_a_saved_state_and_rows_do_not_follow_the_replay():
    script, replay = Script(SIZES[0]), make_replay()
    script.play([replay], 30)
    saved = replay.state() | replay.rows(0, 30)
    before = {name: value.clone() for name, value in saved.items() if isinstance(value, torch.Tensor)}
    script.play([replay], 60)
    assert saved["steps_stored"] == 30
    assert all(torch.equal(saved[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("sizes", SIZES)
def test_a_piece_carries_the_frames_that_its_steps_show_as_far_as_there_are_any(sizes):
    script, replay = Script(sizes), make_replay(sizes)
    script.play([replay], 100)
    intact = range(script.frame)[-replay.frames.capacity :]
    for start, stop in ((100 - sizes.capacity, 100), (100 - sizes.capacity, 101 - sizes.capacity), (75, 90)):
        rows = replay.rows(start, stop)
        shown = range(script.shown[start], int(replay.ring["newest_frames"][(stop - 1) % sizes.capacity]) + 2)
        numbers = rows["frame_numbers"].tolist()
        assert numbers == [number for number in shown if number in intact]
        expected = np.array([numbered_frame(number) for number in numbers]).reshape(-1, *FRAME_SHAPE)
        np.testing.assert_array_equal(rows["frames"].numpy(), expected)


def test_a_replay_too_small_for_a_window_draws_none():
    sizes = SimpleNamespace(**vars(SIZES[0]) | {"capacity": SIZES[0].seq_len})
    replay = make_replay(sizes)
    Script(sizes).play([replay], 50)
    with pytest.raises(ConfigError, match="no window is complete"):
        replay.require_window()


def test_rows_that_are_not_stored_are_refused():
    script, replay = Script(SIZES[0]), make_replay()
    script.play([replay], 80)
    for start, stop in ((19, 30), (70, 81), (40, 40)):
        with pytest.raises(ValueError, match=r"20\.\.80"):
            replay.rows(start, stop)
    assert len(replay.rows(20, 80)["rewards"]) == replay.capacity


def test_an_observation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="uint8 frame"):
        make_replay().store(np.zeros((9, 2, 3), np.uint8), np.zeros(2), 0.0, False, False, None, {})


def test_drawing_from_nothing_is_refused():
    """A window needs one step more than it holds, all of one episode."""
    generator, replay = torch.Generator().manual_seed(0), make_replay(EARLY)
    with pytest.raises(RuntimeError, match="no transition is stored"):
        replay.require_transition()
    for length in (3, 4):
        script = Script(with_episodes(EARLY, length, length))
        with pytest.raises(ConfigError, match="takes 4 agent steps of one episode"):
            replay.require_window()
        script.play([replay], length)
    replay.require_window()
    assert replay.windows(2, generator, reads(replay, "rewards")).rewards.T.tolist() == [[0.0, 1.0, 2.0]] * 2
    assert replay.sample(2, generator).obs.shape == (2, 9, 2, 2)


def test_windows_are_refused_again_once_the_last_was_overwritten():
    generator, replay = torch.Generator().manual_seed(0), make_replay(EARLY)
    Script(EARLY, seed=1).play([replay], 60)
    assert replay.windows(2, generator, reads(replay, "rewards")).rewards.shape == (3, 2)
    Script(with_episodes(EARLY, 3, 3)).play([replay], 60)
    assert replay.starts.total == 0
    with pytest.raises(ConfigError, match="one episode"):
        replay.require_window()
