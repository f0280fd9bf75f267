"""Prioritised windows of consecutive steps, rebuilt from single frames.

Shapes: `B` batch, `T` time, `L` any number of steps, `C` stacked frames, `H,W` image, `n` n-step.
Step s is observation s, the action taken at it, the reward that followed and whether an end came with it; it lives in
slot s % capacity.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from atari.annealing import Horizon
from atari.config import AgentConfig, ReplayConfig
from auxiliaries.slot import Reads
from harness.replay.frames import FrameStore, steps_since_first
from harness.replay.priorities import Priorities
from harness.replay.ring import Ring


@dataclass
class Window:
    """L consecutive steps from each of B starts, without pictures."""

    slots: Tensor  # int64 [L, B], where the step's newest frame is
    since_first: Tensor  # int64 [L, B], steps since the episode's or life's first, cut at the stack's reach
    actions: Tensor  # int64 [L, B], taken at the observation
    rewards: Tensor  # float32 [L, B], that followed
    done: Tensor  # bool [L, B], an end for learning came with this step
    first: Tensor  # bool [L, B], the episode or life began with this step


@dataclass
class SequenceBatch:
    """The batch of one update; fields with a default are filled on request."""

    obs: Tensor  # uint8 [B, C, H, W]
    next_obs: Tensor  # uint8 [B, C, H, W], n steps later, or the last before an end
    action: Tensor  # int64 [B]
    returns: Tensor  # float32 [B], n-step
    done: Tensor  # bool [B], no bootstrap
    weights: Tensor  # float32 [B], importance weights, the largest is 1
    indices: Tensor  # int64 [B], slots of the starts
    # Fields of the windows: of all B sequences, or of the first ones alone.
    frames: Tensor | None = None  # uint8 [T, B, C, H, W]
    actions: Tensor | None = None  # int64 [T, B]
    rewards: Tensor | None = None  # float32 [T, B]
    first: Tensor | None = None  # bool [T, B]
    ended: Tensor | None = None  # bool [T, B], an end came with this step or an earlier one of the window


class SequenceReplay:
    """The last `config.capacity` steps. A sample is a start, drawn by priority, and the window that begins there.

    Every step is `begin_step()`, then `store(...)`. A sample taken between the two equals one taken after both: the
    newest start reads nothing of the step being stored, and the starts that would read what it overwrites are closed.
    """

    def __init__(
        self,
        config: ReplayConfig,
        agent: AgentConfig,
        frame_shape: tuple[int, int],
        frame_stack: int,
        device: torch.device | str,
    ):
        self.config, self.agent, self.capacity = config, agent, config.capacity
        # Steps read before a start. Without a stack one is still needed: `first` is the end of the step before.
        self.history = max(frame_stack - 1, 1)
        self.lag = 1 + agent.longest_n_step + config.window  # newer steps that must exist before a start may be sampled
        self.frames = FrameStore(self.capacity, frame_shape, frame_stack, "zeros", device)
        self.priorities = Priorities(self.capacity, device)
        self.ring = Ring(
            actions=torch.zeros(self.capacity, dtype=torch.int64, device=device),
            rewards=torch.zeros(self.capacity, dtype=torch.float32, device=device),
            flags=torch.zeros(self.capacity, 3, dtype=torch.bool, device=device),  # terminated, truncated, life lost
        )
        self.discounts = agent.discount ** torch.arange(agent.n_step, dtype=torch.float32, device=device)  # float32 [n]
        self.count = torch.zeros((), dtype=torch.int64, device=device)  # steps begun, for the device
        self.largest = torch.ones((), dtype=torch.float64, device=device)  # leaf so far, read for new starts if asked
        self.steps_begun = 0  # steps begun, for the host
        self.steps_stored = 0

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows with the capacity."""
        return self.frames.nbytes + self.priorities.nbytes + self.ring.nbytes

    def begin_step(self) -> None:
        """Advances the cursor for the step about to be stored: one start becomes available, the oldest one closes."""
        self.steps_begun += 1
        self.count.add_(1)
        opened = self.count - 1 - self.lag
        closed = self.count + self.history - 1
        # The run's first steps have no full stack behind them: their slots are not drawn before the ring comes round.
        new = self.largest if self.config.new_priority == "max" else self.config.default_priority**self.config.alpha
        leaf = new * (opened >= self.history).double()
        slots = torch.stack((opened, closed)) % self.capacity
        self.priorities.update(slots, torch.stack((leaf, torch.zeros_like(leaf))))

    def store(
        self,
        observation: np.ndarray,
        action: int,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_observation: np.ndarray | None,
        info: dict,
    ) -> None:
        """Writes the step begun: the newest frame of its observation uint8 [C, H, W], and the action taken at it.

        The reward and the ends that followed, a lost life (in `info`) among them, belong to it. The next observation
        comes with its own step.

        Raises RuntimeError without a `begin_step` of its own.
        """
        if self.steps_stored + 1 != self.steps_begun:
            raise RuntimeError("store() needs a begin_step() of its own before it")
        slot = self.steps_stored % self.capacity
        self.frames.write(slot, observation[-1])
        self.ring.write(slot, actions=action, rewards=reward, flags=(terminated, truncated, info["life_lost"]))
        self.steps_stored += 1

    def require_window(self) -> None:
        """Raises RuntimeError while there is nothing to sample. On the host: a sample itself is tensors alone."""
        if self.steps_begun <= self.lag + self.history:
            raise RuntimeError(f"no window is complete before step {self.lag + self.history + 1} is begun")

    def sample(
        self,
        batch_size: int,
        generator: Generator,
        beta: Tensor | float,
        reads: Reads | None,
        horizon: Horizon | None = None,
    ) -> SequenceBatch:
        """Draws starts by priority, with replacement, and gathers their windows; see `require_window`.

        `generator` is on the replay's device; `reads` says which optional fields of the batch to fill, and how far.
        `horizon` stands for n and discount where they change.
        """
        leaves = self.priorities.leaves
        uniforms = torch.rand(batch_size, dtype=leaves.dtype, device=leaves.device, generator=generator)
        if self.config.stratified:
            # In random order: an auxiliary may read the first sequences alone, and the first strata are the oldest.
            strata = torch.rand(batch_size, device=leaves.device, generator=generator).argsort()
            uniforms = (strata + uniforms) / batch_size
        return self.gather(self.priorities.draw(uniforms), beta, reads, horizon)

    def gather(
        self, indices: Tensor, beta: Tensor | float, reads: Reads | None, horizon: Horizon | None = None
    ) -> SequenceBatch:
        """The batch of the starts in slots `indices` int64 [B]; the rest as in `sample`."""
        length, n, longest = self.config.window, self.agent.n_step, self.agent.longest_n_step
        earlier = int(self.agent.n_step_state == "last")  # steps by which the bootstrap's state is
        steps, fields = (reads.steps, reads.fields) if reads is not None and reads.source == "windows" else (1, ())
        # An end holds over max(window, largest n) steps whatever is gathered, so every auxiliary sees the same windows.
        window = hold_at_end(self.windows(indices, max(length, longest + 1)), max(length, longest))
        rewards, done = window.rewards[:longest], window.done[:longest]
        if horizon is None:
            discounts, ended, following = self.discounts, done[: n - earlier], slice(n - earlier, n - earlier + 1)
        else:
            discounts, ended = horizon.discounts(), done & horizon.counted(earlier)
            following = (horizon.n - earlier).view(1)
        fewer = reads.sequences if fields else None
        wanted = slice(steps if "frames" in fields and fewer is None else 1)
        stacks = self.frames.stack(
            torch.cat((window.slots[wanted], window.slots[following])),
            torch.cat((window.since_first[wanted], window.since_first[following])),
        )
        sequences = stacks[:-1]
        if fewer is not None and "frames" in fields:
            sequences = self.frames.stack(window.slots[:steps, :fewer], window.since_first[:steps, :fewer])
        per_step = {
            "frames": sequences,
            "actions": window.actions,
            "rewards": window.rewards,
            "first": window.first,
            "ended": window.done,
        }
        return SequenceBatch(
            obs=stacks[0],
            next_obs=stacks[-1],
            action=window.actions[0],
            returns=n_step_returns(rewards, done, discounts)[0],
            done=ended.any(0) if self.agent.n_step_done == "n_step" else done[0],
            weights=importance_weights(self.priorities.leaves[indices], beta, self.config.priority_eps),
            indices=indices,
            **{name: per_step[name][:steps, :fewer] for name in fields},
        )

    def windows(self, indices: Tensor, length: int) -> Window:
        """`length` consecutive steps from each slot in `indices` int64 [B], as they were stored."""
        offsets = torch.arange(-self.history, length, device=indices.device)
        slots = (offsets.unsqueeze(1) + indices) % self.capacity  # [history + L, B]
        ended = self.ring["flags"][slots].any(-1)
        window = slots[self.history :]
        return Window(
            slots=window,
            since_first=steps_since_first(ended, self.history),
            actions=self.ring["actions"][window],
            rewards=self.ring["rewards"][window],
            done=ended[self.history :],
            first=ended[self.history - 1 : -1],
        )

    def update_priorities(self, indices: Tensor, kl: Tensor) -> None:
        """Leaf = kl ** alpha for slots `indices` int64 [B]; kl [B]. A slot that occurs twice takes its first value."""
        leaves = kl.double() ** self.config.alpha
        self.priorities.update(indices, leaves)
        if self.config.new_priority == "max":
            self.largest.copy_(torch.maximum(self.largest, leaves.max()))

    def state(self) -> dict:
        """Counters and leaves; the steps themselves come in pieces from `rows`."""
        return {
            "steps_begun": self.steps_begun,
            "steps_stored": self.steps_stored,
            "leaves": self.priorities.leaves.clone(),
            "largest": self.largest.clone(),
        }

    def load_state(self, state: dict) -> None:
        """Restores `state()` in place. Raises ValueError for another capacity."""
        if state["leaves"].shape != self.priorities.leaves.shape:
            raise ValueError(f"the state has {len(state['leaves'])} leaves, this replay {self.capacity}")
        self.priorities.leaves.copy_(state["leaves"])
        self.largest.copy_(state["largest"])
        self.steps_begun, self.steps_stored = state["steps_begun"], state["steps_stored"]
        self.count.fill_(self.steps_begun)

    def rows(self, start_step: int, stop_step: int) -> dict[str, Tensor]:
        """Copies of the stored steps start..stop-1 by global number: frames, actions, rewards, flags, each [L, ...],
        on the replay's device.

        Raises ValueError for a step that is not stored, or no longer.
        """
        slots = self.ring.stored_slots(start_step, stop_step, self.capacity, self.steps_stored)
        return {"frames": self.frames.frames.index_select(0, slots), **self.ring.rows(slots)}

    def load_rows(self, start_step: int, rows: dict[str, Tensor]) -> None:
        """Writes `rows` of the steps from `start_step` on into their slots; the counters come with `load_state`."""
        slots = self.ring.slots(start_step, start_step + len(rows["actions"]), self.capacity)
        self.frames.frames.index_copy_(0, slots, rows["frames"].to(slots.device))
        self.ring.load_rows(slots, rows)


def hold_at_end(window: Window, horizon: int) -> Window:
    """The window as learning sees it: past its first end among the first `horizon` steps, nothing happens any more.

    Observations stay at the ending step's, rewards are 0, done is set; the actions run on, and `first` stays as stored.
    """
    length = window.done.shape[0]
    position = torch.arange(length, device=window.done.device).unsqueeze(1)  # [L, 1]
    end = torch.where(window.done[:horizon], position[:horizon], length).amin(0)  # [B], length where there is none
    past = position > end  # [L, B]
    held = torch.minimum(position, end)
    return replace(
        window,
        slots=window.slots.gather(0, held),
        since_first=window.since_first.gather(0, held),
        rewards=window.rewards.masked_fill(past, 0.0),
        done=window.done | past,
    )


def n_step_returns(rewards: Tensor, done: Tensor, discounts: Tensor) -> Tensor:
    """Discounted sums of n rewards from each step on, up to and including the first that ends an episode or life.

    rewards float32 [L, B], done bool [L, B], discounts float32 [n] (1, gamma, ...) -> float32 [L - n + 1, B].
    """
    n = len(discounts)
    done = done.unfold(0, n, 1)  # [L - n + 1, B, n]
    counted = done.cumsum(-1) - done.long() == 0  # no end before
    return (rewards.unfold(0, n, 1) * counted * discounts).sum(-1)


def importance_weights(leaves: Tensor, beta: Tensor | float, eps: float) -> Tensor:
    """(1 / (leaf + eps)) ** beta over the batch's largest; leaves float64 [B] -> float32 [B]."""
    weights = (1.0 / (leaves + eps)) ** beta
    return (weights / weights.max()).float()
