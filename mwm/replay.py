"""Replay of whole episodes: windows of finished ones, one endless stream of their pictures for each kind of update.

`N` pictures, `B` windows, `T` steps, `A` actions, `S` pixels a side. An episode of L steps has L + 1 pictures; the
first has no action and no reward. Source: released code.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.config import require
from harness.replay.frames import FrameStore, copy_from_host
from harness.replay.ring import Ring
from harness.seeding import numpy_generator
from mwm.batch import PictureBatch, WindowBatch
from mwm.config import KINDS, RGB

DrawBelow = Callable[[int], int]  # a uniform integer below a bound


class Episode(NamedTuple):
    number: int  # number of episodes that began before this one
    first_step: int  # agent step that followed its first picture
    pictures: int


@dataclass(frozen=True)
class WindowRule:
    """Place of a window in an episode."""

    shortest: int  # pictures; shorter episodes are left out
    longest: int  # pictures
    prioritize_ends: bool  # starts beyond the last one count as the last, so that ends come more often

    def place(self, pictures: int, draw: DrawBelow) -> tuple[int, int]:
        """Start and length of a window in an episode of `pictures`."""
        length = max(self.shortest, min(pictures, self.longest) - draw(self.shortest))
        last = pictures - length
        return min(draw(last + 1 + self.shortest * self.prioritize_ends), last), length


@dataclass
class Piece:
    """Consecutive pictures of one episode."""

    episode: Episode
    start: int  # index among the episode's pictures
    length: int
    first: bool  # piece begins a window


class Stream:
    """Endless stream of windows. A batch takes the next pictures; the rest of a window opens the next batch."""

    def __init__(self, rule: WindowRule, draw: DrawBelow):
        self.rule, self._draw = rule, draw
        self.left: Piece | None = None  # rest of the newest window

    def take(self, count: int, episodes: Sequence[Episode]) -> list[Piece]:
        """The next `count` pictures; windows are drawn from `episodes`."""
        if self.left is None or self.left.episode.number < episodes[0].number:  # none yet, or overwritten meanwhile
            self._next_window(episodes)
        pieces = []
        while count:
            window = self.left
            piece = Piece(window.episode, window.start, min(count, window.length), window.first)
            pieces.append(piece)
            count -= piece.length
            self.left = Piece(window.episode, window.start + piece.length, window.length - piece.length, False)
            if not self.left.length:
                self._next_window(episodes)
        return pieces

    def _next_window(self, episodes: Sequence[Episode]) -> None:
        episode = episodes[self._draw(len(episodes))]
        self.left = Piece(episode, *self.rule.place(episode.pictures, self._draw), first=True)

    def state(self) -> dict:
        return {} if self.left is None else {"left": np.hstack(astuple(self.left)).astype(np.int64)}

    def load_state(self, state: dict) -> None:
        self.left = None
        if "left" in state:
            *episode, start, length, first = np.asarray(state["left"]).tolist()
            self.left = Piece(Episode(*episode), start, length, bool(first))


class EpisodeReplay:
    """The last `capacity` agent steps; windows lie in finished episodes that are still whole.

    `draw` fills index tensors on the host; `pictures` and `windows` gather by them and are functions of tensors.
    `usual_episode`, the agent steps of one that reaches its time limit, sizes the room for first pictures. Where
    episodes end earlier, the oldest are given up.
    """

    def __init__(
        self,
        *,
        capacity: int,
        rule: WindowRule,
        batch_pictures: int,
        batch_windows: int,
        image_size: int,
        action_size: int,
        usual_episode: int,
        seed: int,
        device: torch.device | str,
    ):
        self.capacity, self.rule, self.usual_episode = capacity, rule, usual_episode
        self._most_episodes = -(-capacity // usual_episode) + 2
        # The picture after agent step s lies in slot s % capacity, the first one of an episode behind all these.
        slots = capacity + self._most_episodes
        self.frames = FrameStore(slots, (RGB, image_size, image_size), 1, "zeros", device)
        self.ring = Ring(
            actions=torch.zeros(slots, action_size, device=device),
            rewards=torch.zeros(slots, device=device),
            terminal=torch.zeros(slots, dtype=torch.bool, device=device),
        )
        shapes = {"autoencoder": (batch_pictures,), "dynamics": (batch_windows, rule.longest)}
        self.indices = {kind: torch.zeros(shapes[kind], dtype=torch.int64, device=device) for kind in KINDS}
        # True for pictures that begin a window of the stream.
        self.first = torch.zeros(shapes["dynamics"], dtype=torch.bool, device=device)
        self._generators = {kind: numpy_generator(seed, f"replay_{kind}") for kind in KINDS}
        self.streams = {kind: Stream(rule, generator.integers) for kind, generator in self._generators.items()}
        self.steps_stored = 0
        self.episodes: list[Episode] = []  # finished ones that windows may lie in, oldest first
        self.running: Episode | None = None
        self._begun = 0  # episodes

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes + self.ring.nbytes

    def begin_step(self) -> None:
        """Nothing to prepare: a window holds no step of the running episode."""

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
        """Writes a step: the picture uint8 [3, S, S] that followed, and the action float32 [A] that led to it."""
        if self.running is None:
            self.running = Episode(self._begun, self.steps_stored, 1)
            self._begun += 1
            self._write(self._first_slot(self.running), observation, np.zeros_like(action), 0.0, False)
        self._write(self.steps_stored % self.capacity, next_observation, action, reward, terminated)
        self.steps_stored += 1
        self.running = self.running._replace(pictures=self.running.pictures + 1)
        if terminated or truncated:
            if self.running.pictures >= self.rule.shortest:
                self.episodes.append(self.running)
            self.running = None
        self._drop_overwritten()

    def _write(self, slot: int, picture: np.ndarray, action: np.ndarray, reward: float, terminal: bool) -> None:
        self.frames.write(slot, picture)
        self.ring.write(slot, actions=action, rewards=reward, terminal=terminal)

    def _first_slot(self, episode: Episode) -> int:
        return self.capacity + episode.number % self._most_episodes

    def _drop_overwritten(self) -> None:
        oldest_step, oldest_number = self.steps_stored - self.capacity, self._begun - self._most_episodes
        while self.episodes and (self.episodes[0].first_step < oldest_step or self.episodes[0].number < oldest_number):
            self.episodes.pop(0)

    def draw(self, kind: str) -> None:
        """Draws the next batch of a kind of update. Raises ConfigError while no episode can be drawn from."""
        require(
            bool(self.episodes),
            f"no finished episode has {self.rule.shortest} pictures after {self.steps_stored} agent steps: choose a "
            "larger loop.learning_starts or a smaller replay.shortest_window",
        )
        indices = self.indices[kind]
        pieces = self.streams[kind].take(indices.numel(), self.episodes)
        slots = torch.from_numpy(np.concatenate([self._slots(piece) for piece in pieces]))
        copy_from_host(indices, slots.view(indices.shape))
        if kind == "dynamics":
            first = torch.zeros(indices.numel(), dtype=torch.bool)
            ends = np.cumsum([piece.length for piece in pieces])
            for piece, end in zip(pieces, ends, strict=True):
                first[end - piece.length] = piece.first
            copy_from_host(self.first, first.view(indices.shape))

    def newest(self) -> tuple[Tensor, Tensor] | None:
        """Pictures uint8 [L + 1, 3, S, S] and actions float32 [L + 1, A] of the newest finished episode, if any."""
        if not self.episodes:
            return None
        episode = self.episodes[-1]
        slots = torch.from_numpy(self._slots(Piece(episode, 0, episode.pictures, True))).to(self.first.device)
        return self._pictures(slots), self.ring["actions"][slots]

    def _slots(self, piece: Piece) -> np.ndarray:
        """Slots int64 [L] of a piece's pictures."""
        slots = (piece.episode.first_step - 1 + np.arange(piece.start, piece.start + piece.length)) % self.capacity
        if piece.start == 0:
            slots[0] = self._first_slot(piece.episode)
        return slots

    def pictures(self) -> PictureBatch:
        """The batch of an autoencoder update that `draw` chose."""
        indices = self.indices["autoencoder"]
        return PictureBatch(self._pictures(indices), self.ring["rewards"][indices])

    def windows(self) -> WindowBatch:
        """The batch of a dynamics update that `draw` chose; the state begins anew where a window does."""
        indices = self.indices["dynamics"]
        columns = {name: self.ring[name][indices] for name in ("actions", "rewards", "terminal")}
        return WindowBatch(pictures=self._pictures(indices), first=self.first.clone(), **columns)

    def _pictures(self, indices: Tensor) -> Tensor:
        """uint8 [..., 3, S, S]"""
        return self.frames.stack(indices, torch.zeros_like(indices)).squeeze(indices.dim())

    def state(self) -> dict:
        """Counters, episodes and streams; the steps themselves come in pieces from `rows`."""
        running = [] if self.running is None else [self.running]
        return {
            "steps_stored": self.steps_stored,
            "begun": self._begun,
            "episodes": np.array(self.episodes, dtype=np.int64).reshape(-1, len(Episode._fields)),
            "running": np.array(running, dtype=np.int64).reshape(-1, len(Episode._fields)),
            "streams": {kind: stream.state() for kind, stream in self.streams.items()},
            "generators": {kind: generator.bit_generator.state for kind, generator in self._generators.items()},
        }

    def load_state(self, state: dict) -> None:
        """Restores `state()` in place, after `load_rows`; it may be that of a smaller replay."""
        self.steps_stored, self._begun = state["steps_stored"], state["begun"]
        self.episodes = [Episode(*row) for row in np.asarray(state["episodes"]).tolist()]
        self.running = next((Episode(*row) for row in np.asarray(state["running"]).tolist()), None)
        for kind in KINDS:
            self.streams[kind].load_state(state["streams"].get(kind, {}))
            self._generators[kind].bit_generator.state = state["generators"][kind]

    def rows(self, start_step: int, stop_step: int) -> dict[str, Tensor]:
        """Copies of the agent steps start..stop-1 by global number, each [L, ...], with the first pictures of those
        episodes that begin there, [F, 3, S, S], and their episodes' numbers [F].

        Raises ValueError for a step that is not stored, or no longer.
        """
        slots = self.ring.stored_slots(start_step, stop_step, self.capacity, self.steps_stored)
        held = self.episodes if self.running is None else [*self.episodes, self.running]
        begun = [episode.number for episode in held if start_step <= episode.first_step < stop_step]
        numbers = torch.tensor(begun, dtype=torch.int64, device=slots.device)
        first_slots = self.capacity + numbers % self._most_episodes
        frames = self.frames.frames
        return self.ring.rows(slots) | {
            "pictures": frames.index_select(0, slots),
            "first_numbers": numbers,
            "first_pictures": frames.index_select(0, first_slots),
        }

    def load_rows(self, start_step: int, rows: dict[str, Tensor]) -> None:
        """Writes `rows` of the steps from `start_step` on; pieces come oldest first, and then `load_state`."""
        slots = self.ring.slots(start_step, start_step + len(rows["rewards"]), self.capacity)
        self.ring.load_rows(slots, rows)
        frames = self.frames.frames
        frames.index_copy_(0, slots, rows["pictures"].to(slots.device))
        first_slots = self.capacity + rows["first_numbers"].to(slots.device) % self._most_episodes
        frames.index_copy_(0, first_slots, rows["first_pictures"].to(slots.device))
