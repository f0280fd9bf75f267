"""Replays e_replay_*.npz: leaves, windows and draws of the prioritised sequence replay, step by step.

Not compared: actions and rewards of a window that starts in slot 0 after a wrap, the flags of the last n-1 slots, and
stored returns and flags where no start may be sampled.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from atari.replay import SequenceReplay, Window, hold_at_end, importance_weights, n_step_returns
from auxiliaries.slot import Reads
from tests.golden.check import Arrays, Check, exact, in_order, load, relative, setting

LEAF_TOLERANCE = 1e-6
PRIORITY_EPS = 1e-5


def replay_e(folder: Path) -> Iterator[Check]:
    for path in sorted(folder.glob("e_replay_*.npz")):
        yield from ReplayedFile(path.name, load(path)).checks()


class ReplayedFile:
    def __init__(self, file: str, data: Arrays):
        self.file = file
        self.data = data
        self.n = int(setting(data, "n_step"))
        self.seq_len = int(setting(data, "batch_T"))
        self.n_step_flag = file.endswith("_fixed_done_n.npz")
        alpha = setting(data, "alpha")
        config = SimpleNamespace(
            capacity=int(setting(data, "capacity")),
            window=self.seq_len,
            alpha=alpha,
            default_priority=setting(data, "default_leaf", 1.0) ** (1 / alpha) if alpha else 1.0,
            priority_eps=setting(data, "priority_eps", PRIORITY_EPS),
            new_priority="default",
            stratified=False,
        )
        agent = SimpleNamespace(
            n_step=self.n,
            longest_n_step=self.n,
            n_step_state="after",
            discount=setting(data, "discount"),
            n_step_done="n_step" if self.n_step_flag else "one_step",
        )
        stack, height, width = data["obs_stack"].shape[1:]
        self.replay = SequenceReplay(config, agent, (height, width), stack, "cpu")

    def checks(self) -> Iterator[Check]:
        yield exact(self.file, "off_backward", self.replay.lag, self.data["off_backward"])
        yield exact(self.file, "off_forward", self.replay.history, self.data["off_forward"])
        totals, valid, cursors, stacks = [], [], [], []
        for m in range(len(self.data["cursor_by_step"])):
            if m:
                self.append(m - 1)
                stacks.append(self.newest_observation())
            leaves = self.replay.priorities.leaves.numpy()
            totals.append(self.replay.priorities.total.item())
            valid.append(np.packbits(leaves > 0))
            cursors.append(self.replay.steps_begun % self.replay.capacity)
            yield from self.checkpoint(m)
        yield relative(self.file, "total_by_step", totals, self.data["total_by_step"], LEAF_TOLERANCE)
        yield exact(self.file, "valid_by_step", valid, self.data["valid_by_step"])
        yield exact(self.file, "cursor_by_step", cursors, self.data["cursor_by_step"])
        yield exact(self.file, "obs_stack", stacks, self.data["obs_stack"])

    def append(self, step: int) -> None:
        """The files have one flag for every kind of end, so each kind takes its turn."""
        terminated, truncated, lost = (bool(self.data["done"][step]) and step % 3 == kind for kind in range(3))
        self.replay.begin_step()
        self.replay.store(
            self.data["obs_frames"][step : step + 1],
            int(self.data["action"][step]),
            float(self.data["reward"][step]),
            terminated,
            truncated,
            None,
            {"life_lost": lost},
        )

    def newest_observation(self) -> np.ndarray:
        window = self.replay.windows(torch.tensor([self.replay.steps_begun % self.replay.capacity - 1]), 1)
        return self.replay.frames.stack(window.slots[0], window.since_first[0])[0].numpy()

    def checkpoint(self, m: int) -> Iterator[Check]:
        key = f"c{m}"
        if f"{key}.leaves" in self.data:
            leaves = self.replay.priorities.leaves
            yield relative(self.file, f"{key}.leaves", leaves, self.data[f"{key}.leaves"], LEAF_TOLERANCE)
            yield from self.stored_values(key)
        if f"{key}.indices" in self.data:
            indices = torch.as_tensor(self.data[f"{key}.indices"])
            yield exact(self.file, f"{key}.indices", self.samplable(), indices)
            yield from self.windows(key, indices, m > self.replay.capacity)
            yield from self.batches(key, indices)
        rounds = [name for name in self.data if name.startswith(f"{key}.s") and name.endswith(".uniforms")]
        for name in in_order(rounds):
            yield from self.sampling_round(name.removesuffix(".uniforms"))

    def samplable(self) -> torch.Tensor:
        return self.replay.priorities.leaves.nonzero().flatten()

    def stored_values(self, key: str) -> Iterator[Check]:
        slots = self.samplable().numpy()
        window = self.replay.windows(torch.as_tensor(slots), self.n)
        returns, done_n = self.returns(window)[0], self.learning_done(window)[0]
        expected = self.data[f"{key}.stored_return"][slots]
        yield relative(self.file, f"{key}.stored_return", returns, expected, LEAF_TOLERANCE)
        compared = self.flags_compared(slots)
        expected = self.data[f"{key}.stored_done_n"][slots[compared]]
        yield exact(self.file, f"{key}.stored_done_n", done_n[compared], expected)

    def windows(self, key: str, indices: torch.Tensor, wrapped: bool) -> Iterator[Check]:
        """Every samplable window, as stored and with its end held."""
        length, horizon, data = self.seq_len + self.n, self.seq_len, self.data
        previous = self.replay.windows(indices - 1, length)
        usable = (indices > 0) | (not wrapped)  # the library hands slot 0's out rotated
        raw = self.replay.windows(indices, length)
        clean = hold_at_end(raw, horizon)
        # The files keep each reward with the observation after it, so the ending step's own is among those blanked.
        ended = raw.done.clone()
        ended[horizon:] = False
        ended_before = ended.cumsum(0) - ended.long() > 0
        rewards = {"raw": previous.rewards, "clean": previous.rewards.masked_fill(ended_before, 0.0)}
        yield exact(
            self.file, f"{key}.raw.all_action", previous.actions[:, usable], data[f"{key}.raw.all_action"][:, usable]
        )
        yield exact(self.file, f"{key}.raw.done", raw.done[: self.seq_len], data[f"{key}.raw.done"])
        for kind, window in (("raw", raw), ("clean", clean)):
            prefix = f"{key}.{kind}."
            pictures = self.replay.frames.stack(window.slots, window.since_first).unsqueeze(3)
            yield exact(self.file, prefix + "all_observation", pictures, data[prefix + "all_observation"])
            yield exact(
                self.file, prefix + "all_reward", rewards[kind][:, usable], data[prefix + "all_reward"][:, usable]
            )
            yield relative(
                self.file, prefix + "return_", self.returns(window), data[prefix + "return_"], LEAF_TOLERANCE
            )
            compared = self.flags_compared(raw.slots[: self.seq_len].numpy())
            done_n = self.learning_done(window)[: self.seq_len].numpy()
            yield exact(self.file, prefix + "done_n", done_n[compared], data[prefix + "done_n"][compared])

    def batches(self, key: str, indices: torch.Tensor) -> Iterator[Check]:
        """The learner's batch of the same starts."""
        batch = self.replay.gather(indices, 1.0, Reads("windows", self.seq_len, ("frames", "actions")))
        observations = self.data[f"{key}.clean.all_observation"].squeeze(3)
        yield exact(self.file, f"{key} batch.obs", batch.obs, observations[0])
        # Ours holds an end within the n steps of the return too; where these are more, the reference does not.
        done = self.replay.windows(indices, max(self.seq_len, self.n)).done
        held_by_both = done[: self.seq_len].any(0) | ~done.any(0)
        next_obs = observations[self.n][held_by_both]
        yield exact(self.file, f"{key} batch.next_obs", batch.next_obs[held_by_both], next_obs)
        yield exact(self.file, f"{key} batch.frames", batch.frames, observations[: self.seq_len])
        rotated = indices.numpy() == 0
        actions = self.data[f"{key}.raw.all_action"][1 : self.seq_len + 1, ~rotated]
        yield exact(self.file, f"{key} batch.actions", batch.actions[:, ~rotated], actions)
        yield exact(self.file, f"{key} batch.action", batch.action[~rotated], actions[0])
        returns = self.data[f"{key}.clean.return_"][0]
        yield relative(self.file, f"{key} batch.returns", batch.returns, returns, LEAF_TOLERANCE)
        compared = self.flags_compared(indices.numpy())
        done = self.data[f"{key}.clean.done_n"][0]
        yield exact(self.file, f"{key} batch.done", batch.done.numpy()[compared], done[compared])

    def sampling_round(self, key: str) -> Iterator[Check]:
        data, replay = self.data, self.replay
        indices = replay.priorities.draw(torch.as_tensor(data[f"{key}.uniforms"]))
        leaves = replay.priorities.leaves[indices]
        weights = importance_weights(leaves, float(data[f"{key}.beta"]), replay.config.priority_eps)
        yield relative(
            self.file, f"{key}.total_before", replay.priorities.total, data[f"{key}.total_before"], LEAF_TOLERANCE
        )
        yield exact(self.file, f"{key}.indices", indices, data[f"{key}.indices"])
        age = replay.steps_begun % replay.capacity + replay.capacity - indices
        yield exact(self.file, f"{key}.age", age, data[f"{key}.age"])
        yield relative(self.file, f"{key}.leaf", leaves, data[f"{key}.leaf"], LEAF_TOLERANCE)
        yield relative(self.file, f"{key}.is_weights", weights, data[f"{key}.is_weights"], LEAF_TOLERANCE)
        replay.update_priorities(indices, torch.as_tensor(data[f"{key}.new_kl"]))
        leaves_after, total = replay.priorities.leaves, replay.priorities.total
        yield relative(self.file, f"{key}.leaves_after", leaves_after, data[f"{key}.leaves_after"], LEAF_TOLERANCE)
        yield relative(self.file, f"{key}.total_after", total, data[f"{key}.total_after"], LEAF_TOLERANCE)

    def returns(self, window: Window) -> torch.Tensor:
        return n_step_returns(window.rewards, window.done, self.replay.discounts)[: self.seq_len]

    def learning_done(self, window: Window) -> torch.Tensor:
        """The flag that stops the bootstrap at each step, one-step or n-step as the file stores it."""
        if self.n_step_flag:
            return window.done.unfold(0, self.n, 1).any(-1)
        return window.done

    def flags_compared(self, slots: np.ndarray) -> np.ndarray:
        """False for the last n-1 slots, whose flag the library writes by another branch."""
        return slots < self.replay.capacity - (self.n - 1)
