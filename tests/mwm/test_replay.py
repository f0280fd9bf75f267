"""Replay of whole episodes against a plain list of everything stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.config import ConfigError
from mwm.config import KINDS
from mwm.replay import EpisodeReplay, WindowRule
from tests.operations import OperationRecorder, places

ACTIONS, SIZE = 2, 8
RULE = WindowRule(shortest=4, longest=4, prioritize_ends=True)


def make_replay(rule=RULE, capacity=60, **settings):
    sizes = {"batch_pictures": 10, "batch_windows": 3, "image_size": SIZE, "action_size": ACTIONS}
    sizes |= {"usual_episode": 8, "seed": 3, "device": "cpu"} | settings
    return EpisodeReplay(capacity=capacity, rule=rule, **sizes)


class Story:
    """Episodes as plain lists of (picture's number, action, reward, terminal), and a replay that is told the same.

    A picture holds its number in all its values, so that a gathered one says which it is.
    """

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.shown, self.episodes = 0, []

    def picture(self):
        self.shown += 1
        return np.full((3, SIZE, SIZE), self.shown, np.uint8)

    def tell(self, steps, *replays, terminated=False):
        """An episode of `steps` steps."""
        picture = self.picture()
        rows = [(self.shown, np.zeros(ACTIONS), 0.0, False)]
        for step in range(steps):
            end = step == steps - 1
            action = self.random.uniform(-1, 1, ACTIONS).astype(np.float32)
            reward, following = float(np.float32(self.random.random())), self.picture()
            rows.append((self.shown, action, reward, terminated and end))
            for replay in replays:
                replay.begin_step()
                replay.store(picture, action, reward, terminated and end, end and not terminated, following, {})
            picture = following
        self.episodes.append(rows)

    def row(self, number):
        return next(row for rows in self.episodes for row in rows if row[0] == number)


def told(lengths=(8, 5, 8), rule=RULE, **settings):
    story, replay = Story(), make_replay(rule, **settings)
    for length in lengths:
        story.tell(length, replay, terminated=length == 5)
    return story, replay


def assert_rows(story, numbers, **columns):
    for place, number in enumerate(numbers):
        _, action, reward, terminal = story.row(number)
        expected = {"actions": action, "rewards": reward, "terminal": terminal}
        for name, values in columns.items():
            assert np.allclose(values[place], expected[name], atol=0), (name, number)


def test_windows_are_consecutive_pictures_of_one_episode_with_what_led_to_them():
    story, replay = told()
    seen = set()
    for _ in range(40):
        replay.draw("dynamics")
        batch = replay.windows()
        assert batch.pictures.shape == (3, 4, 3, SIZE, SIZE) and batch.pictures.dtype == torch.uint8
        assert batch.first.tolist() == [[True, False, False, False]] * 3
        assert batch.actions.dtype == batch.rewards.dtype == torch.float32
        numbers = batch.pictures[..., 0, 0, 0]
        assert (batch.pictures == numbers.view(3, 4, 1, 1, 1)).all()
        for window in range(3):
            columns = {name: getattr(batch, name)[window].numpy() for name in ("actions", "rewards", "terminal")}
            assert_rows(story, numbers[window].tolist(), **columns)
            seen.add(tuple(numbers[window].tolist()))
    expected = set()
    for rows in story.episodes:
        shown = [row[0] for row in rows]
        expected |= {tuple(shown[start : start + 4]) for start in range(len(shown) - 3)}
    assert seen == expected


def test_pictures_go_on_where_the_batch_before_stopped():
    story, replay = told()
    stream = []
    for _ in range(20):
        replay.draw("autoencoder")
        batch = replay.pictures()
        numbers = batch.pictures[:, 0, 0, 0].tolist()
        assert_rows(story, numbers, rewards=batch.rewards.numpy())
        stream += numbers
    assert len(stream) == 200
    windows = [stream[start : start + 4] for start in range(0, 200, 4)]  # across the borders of batches of 10
    assert all(window == list(range(window[0], window[0] + 4)) for window in windows)


def start_of(rule, value, bound):
    draws = [(50, 0), (bound, value)]  # the shortening and the start

    def draw(asked):
        expected, drawn = draws.pop(0)
        assert asked == expected
        return drawn

    return rule.place(251, draw)[0]


def test_windows_end_with_an_episode_as_often_as_the_paper_says():
    """With 251 pictures and windows of 50 the last one comes in 51 of 252 draws, not in 1 of 202."""
    counts = {}
    for ends, bound in ((True, 252), (False, 202)):
        starts = [start_of(WindowRule(50, 50, ends), value, bound) for value in range(bound)]
        counts[ends] = starts.count(201)
    assert counts == {True: 51, False: 1}


def test_short_windows_begin_anew_inside_a_batch():
    rule = WindowRule(1, 4, True)
    _, replay = told((2, 8, 1), rule)
    begun = 0
    for _ in range(20):
        replay.draw("dynamics")
        batch = replay.windows()
        numbers, first = batch.pictures[..., 0, 0, 0].flatten().tolist(), batch.first.flatten().tolist()
        for place in range(1, len(numbers)):
            assert first[place] or numbers[place] == numbers[place - 1] + 1
        begun += sum(first)
    assert begun > 3 * 20, "every window but some has four pictures"


def test_a_running_or_short_episode_is_not_drawn():
    story, replay = Story(), make_replay()
    for kind in ("autoencoder", "dynamics"):
        with pytest.raises(ConfigError, match="no finished episode has 4 pictures after 0 agent steps"):
            replay.draw(kind)
    story.tell(2, replay)
    with pytest.raises(ConfigError, match="after 2 agent steps"):
        replay.draw("dynamics")
    story.tell(3, replay)
    observation = story.picture()
    replay.store(observation, np.zeros(ACTIONS, np.float32), 0.0, False, False, story.picture(), {})
    replay.draw("dynamics")
    assert replay.windows().pictures[..., 0, 0, 0].tolist() == [[4, 5, 6, 7]] * 3


def test_the_oldest_episodes_make_room():
    story, replay = told((8,) * 6, capacity=20)
    seen = set()
    for _ in range(50):
        replay.draw("dynamics")
        seen |= set(replay.windows().pictures[..., 0, 0, 0].flatten().tolist())
    kept = {row[0] for rows in story.episodes[-2:] for row in rows}  # 16 steps; a third would need 24
    assert seen == kept
    assert replay.steps_stored == 48


def test_a_window_that_was_begun_and_is_overwritten_is_not_gone_on_with():
    story, replay = told((8, 8), capacity=20)
    replay.draw("autoencoder")  # 10 pictures: two windows and a half
    for _ in range(3):
        story.tell(8, replay)
    replay.draw("autoencoder")
    kept = {row[0] for rows in story.episodes[-2:] for row in rows}
    assert set(replay.pictures().pictures[:, 0, 0, 0].tolist()) <= kept


def test_many_short_episodes_make_room_too():
    rule = replace(RULE, shortest=2, longest=2)
    story, replay = told((1,) * 40, rule, capacity=60)  # first pictures run out before the steps do
    held = {row[0] for rows in story.episodes[-len(replay.episodes) :] for row in rows}
    for _ in range(20):
        replay.draw("dynamics")
        assert set(replay.windows().pictures[..., 0, 0, 0].flatten().tolist()) <= held
    assert 5 < len(replay.episodes) < 40


@pytest.mark.parametrize("capacity, larger", [(60, 60), (60, 90), (20, 20)])
def test_a_restored_replay_goes_on_exactly(capacity, larger):
    """Stopped in the middle of an episode and of a window; saved in two pieces."""
    story, replay = told((8, 5), capacity=capacity)
    replay.draw("autoencoder")
    pieces = [(0, replay.rows(0, 10))]
    story.tell(8, replay)
    picture = story.picture()
    action = np.ones(ACTIONS, np.float32)
    replay.store(picture, action, 1.0, False, False, story.picture(), {})
    pieces.append((10, replay.rows(10, 22)))
    for kind in ("autoencoder", "dynamics"):
        replay.draw(kind)
    other = make_replay(capacity=larger)
    for start, rows in pieces:
        other.load_rows(start, rows)
    other.load_state(replay.state())
    following = story.picture()
    for each in (replay, other):
        for step in range(3):
            each.store(picture, action, 1.0, False, step == 2, following, {})
    for _ in range(10):
        for kind in ("autoencoder", "dynamics"):
            replay.draw(kind)
            other.draw(kind)
        ours, theirs = replay.pictures(), other.pictures()
        assert torch.equal(ours.pictures, theirs.pictures) and torch.equal(ours.rewards, theirs.rewards)
        ours, theirs = replay.windows(), other.windows()
        for name in ("pictures", "actions", "rewards", "first", "terminal"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_steps_that_are_not_stored_have_no_rows():
    _, replay = told()
    for start, stop in ((0, 22), (5, 5), (-1, 3)):
        with pytest.raises(ValueError, match="not all in"):
            replay.rows(start, stop)


def test_a_step_costs_one_picture():
    """12.3 kB at 64 pixels: 252,000 steps of a run take 3.1 GB."""
    replay = make_replay(capacity=1000, image_size=64, usual_episode=250, action_size=4)
    assert 12_288 < replay.nbytes / 1000 < 12_288 * 1.01


def test_an_empty_replay_has_batches_for_a_recording():
    for device in ("cpu", "meta"):
        replay = make_replay(device=device)
        assert replay.pictures().pictures.shape == (10, 3, SIZE, SIZE)
        assert replay.windows().actions.shape == (3, 4, ACTIONS)


def test_batches_are_functions_of_tensors_that_stay():
    """So that an update can be recorded: only `draw` works on the host."""
    story, replay = told()
    before = places(replay)
    for _ in range(2):
        for kind in KINDS:
            replay.draw(kind)
        with OperationRecorder() as recorder:
            replay.pictures()
            replay.windows()
        assert len(recorder.calls) > 10
        story.tell(8, replay)
        replay.load_state(replay.state())
    assert places(replay) == before
    empty = make_replay(device="meta")
    with OperationRecorder("meta"):
        empty.pictures()
        empty.windows()
