import numpy as np
import pytest
import torch

from harness.replay.frames import FrameStore, steps_since_first


class SeenStacks:
    """What an environment shows: the last `stack` frames, cleared at each episode's start."""

    def __init__(self, stack, padding):
        self.stack, self.padding = stack, padding
        self.episode = []

    def observe(self, frame, first):
        if first:
            self.episode = []
        self.episode.append(frame)
        before = np.zeros_like(frame) if self.padding == "zeros" else self.episode[0]
        padded = [before] * (self.stack - 1) + self.episode
        return np.stack(padded[-self.stack :])


@pytest.mark.parametrize("padding", ["zeros", "repeat"])
@pytest.mark.parametrize("stack, frame_shape", [(4, (3, 2)), (3, (3, 2, 2)), (1, (2, 2)), (4, (4, 4)), (3, (3, 4, 2))])
def test_stacks_equal_what_the_environment_showed(padding, stack, frame_shape):
    capacity, history, steps = 17, max(stack - 1, 1), 90
    for script in range(6):
        rng = np.random.default_rng(script)
        store = FrameStore(capacity, frame_shape, stack, padding, "cpu")
        oracle = SeenStacks(stack, padding)
        ended, seen = [True] * history, []  # the run begins as if an episode had just ended
        for step in range(steps):
            frame = rng.integers(1, 256, frame_shape, dtype=np.uint8)
            seen.append(oracle.observe(frame, first=ended[-1]))
            ended.append(bool(rng.random() < (0.05, 0.3, 0.7)[script % 3]))
            store.write(step % capacity, frame)
            oldest = max(0, step + 1 - capacity + stack - 1)  # older frames of earlier stacks are overwritten
            since_first = steps_since_first(torch.tensor(ended[oldest : step + 1 + history]), history)
            stacks = store.stack(torch.arange(oldest, step + 1) % capacity, since_first)
            np.testing.assert_array_equal(stacks.numpy(), np.stack(seen[oldest:]))


def test_any_leading_shape():
    store = FrameStore(8, (2, 2), 3, "zeros", "cpu")
    for slot in range(8):
        store.write(slot, np.full((2, 2), slot + 1, dtype=np.uint8))
    slots = torch.tensor([[4, 7, 2], [5, 3, 6]])
    stacks = store.stack(slots, torch.full((2, 3), 9))
    assert stacks.shape == (2, 3, 3, 2, 2)
    assert stacks[1, 2, :, 0, 0].tolist() == [5, 6, 7]


def test_a_frame_of_another_shape_or_dtype_is_refused():
    store = FrameStore(4, (3, 2), 2, "zeros", "cpu")
    for frame in (np.zeros((2, 3), np.uint8), np.zeros((1, 2), np.uint8), np.zeros((3, 2), np.float32)):
        with pytest.raises(ValueError, match="uint8 frame"):
            store.write(0, frame)
