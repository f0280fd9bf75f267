"""Uniform transitions and windows of consecutive steps, rebuilt from single frames.

Shapes: `B` batch, `T` time, `A` action, `C` stacked channels, `H,W` image.
Step s is an observation, the action taken at it, and the reward, the ends and the observation that followed; it lives
in slot s % capacity. An episode of L steps shows L + 1 frames, so frames have numbers and a ring of their own: the
observation of step s ends with frame `newest_frames[s % capacity]`, the one that followed with the frame after that.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from auxiliaries.slot import Reads
from harness.config import require
from harness.replay.frames import FrameStore
from harness.replay.priorities import Priorities
from harness.replay.ring import Ring

COUNTERS = ("oldest", "steps_stored", "frames_stored", "episode_step", "newest_start")


@dataclass
class TransitionBatch:
    obs: Tensor  # uint8 [B, C, H, W]
    action: Tensor  # float32 [B, A], taken at obs
    reward: Tensor  # float32 [B]
    next_obs: Tensor  # uint8 [B, C, H, W]
    bootstrap: Tensor  # float32 [B], 0 where the episode terminated; a truncated one goes on for learning


@dataclass
class WindowBatch:
    """T consecutive steps of one episode each; the fields are filled on request."""

    frames: Tensor | None = None  # uint8 [T, B, C, H, W], the observations
    actions: Tensor | None = None  # float32 [T, B, A], taken at them
    rewards: Tensor | None = None  # float32 [T, B], that followed
    first: Tensor | None = None  # bool [T, B], the episode began with this step
    ended: Tensor | None = None  # bool [T, B], the episode ended with this step or an earlier one of the window


class TransitionReplay:
    """The last `capacity` steps, as single transitions or as windows of `window` steps, each drawn uniformly.

    A window holds no step that ended an episode.

    `min_episode`, the agent steps of a usual episode, sizes the ring of frames. Where episodes end earlier, the frames
    run out first, and the oldest steps can no longer be sampled although they are among the last `capacity`.
    """

    def __init__(
        self,
        capacity: int,
        window: int,
        frame_shape: tuple[int, int, int],
        frame_stack: int,
        action_size: int,
        device: torch.device | str,
        min_episode: int,
    ):
        self.capacity, self.window = capacity, window
        ends = -(-capacity // min_episode)
        # A frame for each step, one more for each end among them, and the rest of the oldest and newest observation.
        self.frames = FrameStore(capacity + ends + frame_stack, frame_shape, frame_stack, "repeat", device)
        self.starts = Priorities(capacity, device)  # 1 where a window may start
        self.ring = Ring(
            actions=torch.zeros(capacity, action_size, dtype=torch.float32, device=device),
            rewards=torch.zeros(capacity, dtype=torch.float32, device=device),
            flags=torch.zeros(capacity, 2, dtype=torch.bool, device=device),  # terminated, truncated
            newest_frames=torch.zeros(capacity, dtype=torch.int64, device=device),
            since_first=torch.zeros(capacity, dtype=torch.int64, device=device),  # steps in the episode before
        )
        self.bounds = torch.zeros(2, dtype=torch.int64, device=device)  # oldest and steps_stored, for the device
        self.oldest_frames = np.zeros(capacity, dtype=np.int64)  # oldest frame of each step's observation, for the host
        self.oldest = 0  # step that may be sampled
        self.steps_stored = 0
        self.frames_stored = 0
        self.episode_step = 0  # index in its episode of the step to be stored next; 0 begins an episode
        self.newest_start = -1  # step at which a window may start, or could before it was overwritten

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows with the capacity."""
        return self.frames.nbytes + self.starts.nbytes + self.ring.nbytes + self.oldest_frames.nbytes

    def begin_step(self) -> None:
        """Nothing to prepare: a step's updates run before it is stored, and read only what is."""

    def store(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_observation: np.ndarray,
        info: dict,
    ) -> None:
        """Writes a step: observations uint8 [C, H, W], of which the newest frame is kept, and action float32 [A]."""
        if self.episode_step == 0:
            self._store_frame(observation)
        newest_frame = self.frames_stored - 1
        self._store_frame(next_observation)
        slot = self.steps_stored % self.capacity
        self.ring.write(
            slot,
            actions=action,
            rewards=reward,
            flags=(terminated, truncated),
            newest_frames=newest_frame,
            since_first=self.episode_step,
        )
        self.oldest_frames[slot] = newest_frame - min(self.episode_step, self.frames.stack_size - 1)
        self.steps_stored += 1
        self._close_overwritten()
        if self.episode_step >= self.window:  # a window may end before the step just stored
            self.newest_start = self.steps_stored - 1 - self.window
            self.starts.leaves[self.newest_start % self.capacity].fill_(1.0)
        self._write_bounds()
        self.episode_step = 0 if terminated or truncated else self.episode_step + 1

    def _store_frame(self, observation: np.ndarray) -> None:
        channels = self.frames.frames.shape[1]
        self.frames.write(self.frames_stored % self.frames.capacity, observation[-channels:])
        self.frames_stored += 1

    def _close_overwritten(self) -> None:
        """Moves `oldest` past the steps that were overwritten, or of whose observation a frame was."""
        oldest_step = self.steps_stored - self.capacity
        while self.oldest < oldest_step or self.oldest_frames[self.oldest % self.capacity] < self._first_intact_frame:
            self.starts.leaves[self.oldest % self.capacity].fill_(0.0)
            self.oldest += 1

    def _write_bounds(self) -> None:
        for bound, value in zip(self.bounds, (self.oldest, self.steps_stored), strict=True):
            bound.fill_(value)

    @property
    def _first_intact_frame(self) -> int:
        """Number of the oldest frame that is not overwritten yet."""
        return max(0, self.frames_stored - self.frames.capacity)

    def require_transition(self) -> None:
        """Raises RuntimeError while there is nothing to sample. On the host: a sample itself is tensors alone."""
        if self.steps_stored == 0:
            raise RuntimeError("no transition is stored yet: call store() before sample()")

    def require_window(self) -> None:
        """Raises ConfigError on the host while no window can be sampled: episodes are too short."""
        require(
            self.newest_start >= self.oldest,
            f"no window is complete: that takes {self.window + 1} agent steps of one episode; choose a smaller "
            "replay.window or environment.action_repeat, or auxiliary=none",
        )

    def sample(self, batch_size: int, generator: Generator) -> TransitionBatch:
        """Draws stored steps uniformly, with replacement; `generator` is on the replay's device."""
        oldest, count = self.bounds.unbind()
        slots = (oldest + (self._uniforms(batch_size, generator) * (count - oldest)).long()) % self.capacity
        newest, since_first = self.ring["newest_frames"][slots], self.ring["since_first"][slots]
        obs, next_obs = self._observations(
            torch.stack((newest, newest + 1)), torch.stack((since_first, since_first + 1))
        )
        terminated = self.ring["flags"][slots, 0]
        return TransitionBatch(
            obs=obs,
            action=self.ring["actions"][slots],
            reward=self.ring["rewards"][slots],
            next_obs=next_obs,
            bootstrap=1.0 - terminated.float(),
        )

    def windows(self, batch_size: int, generator: Generator, reads: Reads) -> WindowBatch:
        """Draws windows uniformly, with replacement, and fills the first steps of the fields that `reads` names.

        `generator` is on the replay's device. A window does not hold the newest step.
        """
        starts = self.starts.draw(self._uniforms(batch_size, generator))
        offsets = torch.arange(reads.steps, device=starts.device)
        slots = (offsets.unsqueeze(1) + starts) % self.capacity  # [T, B]
        since_first = self.ring["since_first"][slots]
        gather = {
            "frames": lambda: self._observations(self.ring["newest_frames"][slots], since_first),
            "actions": lambda: self.ring["actions"][slots],
            "rewards": lambda: self.ring["rewards"][slots],
            "first": lambda: since_first == 0,
            "ended": lambda: self.ring["flags"][slots].any(-1),  # a window holds no step behind an end
        }
        return WindowBatch(**{name: gather[name]() for name in reads.fields})

    def _uniforms(self, batch_size: int, generator: Generator) -> Tensor:
        # In float64 a product with a count never rounds up to that count.
        return torch.rand(batch_size, dtype=torch.float64, device=self.bounds.device, generator=generator)

    def _observations(self, newest_frames: Tensor, since_first: Tensor) -> Tensor:
        """Stacks that end with the frames of these numbers: both int64 [..., B] -> uint8 [..., B, C, H, W]."""
        return self.frames.stack(newest_frames, since_first).flatten(-4, -3)

    def state(self) -> dict:
        """Counters and leaves; the steps themselves come in pieces from `rows`."""
        return {name: getattr(self, name) for name in COUNTERS} | {"starts": self.starts.leaves.clone()}

    def load_state(self, state: dict) -> None:
        """Restores `state()` in place, after `load_rows`.

        It may be that of a smaller replay in which nothing was overwritten yet; raises ValueError for another capacity.
        """
        held = len(state["starts"])
        if held != self.capacity and not state["steps_stored"] <= held < self.capacity:
            raise ValueError(f"the state has {held} leaves, this replay {self.capacity}")
        self.starts.leaves.zero_()[:held].copy_(state["starts"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        self._write_bounds()
        shown = self.ring["since_first"].clamp(max=self.frames.stack_size - 1)
        self.oldest_frames[:] = (self.ring["newest_frames"] - shown).cpu().numpy()

    def rows(self, start_step: int, stop_step: int) -> dict[str, Tensor]:
        """Copies of the stored steps start..stop-1 by global number, each [L, ...], on the replay's device.

        Beside them are the frames [F, ...] that their observations show, unless overwritten, and their numbers [F].
        Raises ValueError for a step that is not stored, or no longer.
        """
        slots = self.ring.stored_slots(start_step, stop_step, self.capacity, self.steps_stored)
        rows = self.ring.rows(slots)
        stop_frame = int(rows["newest_frames"][-1]) + 2
        start_frame = max(int(self.oldest_frames[start_step % self.capacity]), self._first_intact_frame)
        numbers = torch.arange(min(start_frame, stop_frame), stop_frame, device=slots.device)
        frames = self.frames.frames.index_select(0, numbers % self.frames.capacity)
        return rows | {"frame_numbers": numbers, "frames": frames}

    def load_rows(self, start_step: int, rows: dict[str, Tensor]) -> None:
        """Writes `rows` of the steps from `start_step` on into their slots; pieces come oldest first, and then the
        counters with `load_state`."""
        slots = self.ring.slots(start_step, start_step + len(rows["actions"]), self.capacity)
        self.ring.load_rows(slots, rows)
        numbers = rows["frame_numbers"].to(slots.device)
        self.frames.frames.index_copy_(0, numbers % self.frames.capacity, rows["frames"].to(slots.device))
