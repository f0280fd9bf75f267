"""What the rows of docs/fidelity.md change, measured: agents with fresh weights on random play, and their gradients.

The measurements of both benchmarks are here; those of one are in its package. `T` time, `B` batch, `C, H, W` image.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.run import Benchmark
from mlr.augmentation import RandomCrop
from mlr.masking import sample_mask
from mlr.momentum import frozen_copy, momentum_update

SMALL = "preset=cpu"  # of trainings, where none is asked for
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Effect:
    """One quantity under both settings, or how the two compare; what does not apply is empty."""

    row: str
    benchmark: str
    quantity: str
    released: str = ""
    paper: str = ""
    compared: str = ""
    sample: str = ""


@dataclass(frozen=True)
class Sizes:
    seeds: int  # of weights, masks and augmentations
    windows: int  # in a batch
    steps: int  # agent steps of random play, from which batches are drawn
    counted_steps: int  # of random play in each game, where transitions are counted
    updates: int  # of a short training
    draws: int  # of noise, crops and masks


class Gradient(NamedTuple):
    loss: float
    encoder: Tensor  # flat
    norm: float  # over all that the loss trains


class Lab:
    """Agents of one benchmark, and a replay of random play, made when they are asked for.

    benchmark: its parts. resolve: settings to a configuration. draw: (replay, windows, generator) to a batch with
    frames and actions. overrides: settings of all configurations, on top of `fidelity=released`.
    """

    def __init__(self, benchmark: Benchmark, resolve: Callable, draw: Callable, overrides: Sequence[str], sizes: Sizes):
        self.sizes = sizes
        self._benchmark, self._resolve, self._draw, self._overrides = benchmark, resolve, draw, list(overrides)
        self.seeds = range(1, sizes.seeds + 1)

    @cached_property
    def small(self) -> "Lab":
        """The same with networks that can be trained here."""
        chosen = any(override.startswith("preset=") for override in self._overrides)
        overrides = self._overrides if chosen else [*self._overrides, SMALL]
        return Lab(self._benchmark, self._resolve, self._draw, overrides, self.sizes)

    @cache  # noqa: B019 - a lab lives as long as the program
    def config(self, *overrides: str, fidelity: str = "released") -> Any:
        fixed = [f"fidelity={fidelity}", f"replay.capacity={self.sizes.steps}"]
        return self._resolve([*self._overrides, *fixed, *overrides])

    def paper(self, key: str) -> str:
        """The override that gives one key the paper's value."""
        return f"{key}={attrgetter(key)(self.config(fidelity='paper'))}"

    @cached_property
    def environment(self) -> Any:
        return self._benchmark.make_environment(self.config(), 1, 0, True)

    @cached_property
    def replay(self) -> Any:
        return self.play(self.environment, self.config())

    def play(self, environment: Any, config: Any) -> Any:
        """A full replay of random actions."""
        replay = self._benchmark.make_replay(config, environment, CPU)
        environment.action_space.seed(1)
        observation, _ = environment.reset()
        for _ in range(config.replay.capacity):
            action = environment.action_space.sample()
            replay.begin_step()
            following, reward, terminated, truncated, info = environment.step(action)
            replay.store(observation, action, reward, terminated, truncated, following, info)
            observation = environment.reset()[0] if terminated or truncated else following
        return replay

    def play_task(self, *overrides: str) -> Any:
        """A replay of another task, `sizes.counted_steps` long."""
        config = self.config(f"replay.capacity={self.sizes.counted_steps}", *overrides)
        return self.play(self._benchmark.make_environment(config, 1, 0, True), config)

    def agent(self, seed: int, *overrides: str) -> Any:
        """A fresh agent; one with the same seed draws the same weights, masks and augmentations."""
        return self._benchmark.make_agent(self.config(f"seed={seed}", *overrides), self.environment, CPU)

    def clips(self, seed: int) -> Any:
        return self._draw(self.replay, self.sizes.windows, torch.Generator().manual_seed(seed))

    @cache  # noqa: B019
    def mlr_gradient(self, seed: int, *overrides: str) -> Gradient:
        """The auxiliary loss of a fresh agent, without its weight in the objective."""
        agent = self.agent(seed, *overrides)
        loss = agent.auxiliary.loss(self.clips(seed))[0].mean()
        loss.backward()
        return Gradient(loss.item(), flat_gradient(agent.encoder), norm(agent.trained_parameters()))

    def mlr_gradients(self, key: str) -> list[tuple[Gradient, Gradient]]:
        """By seed: as released, and with the paper's value of one key."""
        return [(self.mlr_gradient(seed), self.mlr_gradient(seed, self.paper(key))) for seed in self.seeds]

    @property
    def batches(self) -> str:
        return f"{self.config().task}, {self.sizes.seeds} seeds x {self.sizes.windows} windows"


def flat_gradient(module: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def norm(parameters: Iterable[nn.Parameter]) -> float:
    """Of the gradients that exist."""
    return float(nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None]))


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def number(*values: float | Tensor) -> str:
    """The mean, and the range where there are several."""
    values = [float(value) for value in values]
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return f"{mean(values):.3g}" + (f" ({low} to {high})" if low != high else "")


# Rows of both benchmarks


def distance(lab: Lab, benchmark: str) -> list[Effect]:
    """F5."""
    released, paper = zip(*lab.mlr_gradients("mlr.distance_scale"), strict=True)
    what = ("F5", benchmark)
    cosines = number(*(cosine(a.encoder, b.encoder) for a, b in zip(released, paper, strict=True)))
    losses = [number(*(gradient.loss for gradient in side)) for side in (released, paper)]
    norms = [number(*(gradient.norm for gradient in side)) for side in (released, paper)]
    return [
        Effect(*what, "L_mlr", *losses, sample=lab.batches),
        Effect(*what, "norm of its gradient before clipping", *norms, sample=lab.batches),
        Effect(*what, "cosine of the encoder's gradients", compared=cosines, sample=lab.batches),
    ]


def crop(lab: Lab, benchmark: str, crop_size: int) -> list[Effect]:
    """F9."""
    config, images = lab.config(), lab.clips(1).frames.flatten(0, 1)
    crops = {
        mode: RandomCrop(config.environment.image_size, crop_size, config.augmentation.pad, mode)
        for mode in (config.augmentation.crop, lab.config(fidelity="paper").augmentation.crop)
    }
    released, paper = crops.values()
    offsets = released.draw(len(images), torch.Generator().manual_seed(1), CPU)
    changed = (released(images, offsets) - paper(images, offsets)).abs()
    gradients = lab.mlr_gradients("augmentation.crop")
    cosines = number(*(cosine(a.encoder, b.encoder) for a, b in gradients))
    what, pictures = ("F9", benchmark), f"{config.task}, {len(images)} stacks"
    return [
        Effect(*what, "mean change of a pixel, grey levels", compared=number(changed.mean()), sample=pictures),
        Effect(*what, "largest change of a pixel, grey levels", compared=number(changed.max()), sample=pictures),
        Effect(*what, "cosine of the encoder's gradients of L_mlr", compared=cosines, sample=lab.batches),
    ]


def momentum(lab: Lab, benchmark: str, every: int, before_step: bool) -> list[Effect]:
    """F13, by a weight that counts the updates; before_step: whether the copy is updated before the weight."""
    tau, updates = lab.config().mlr.tau, lab.sizes.draws
    what, sample = ("F13", benchmark), f"tau {tau:g}, {updates} updates"
    per_update = [number(1 - (1 - tau) ** (1 / period)) for period in (every, 1)]
    lags = [number(mean_lag(tau, period, updates, before_step)) for period in (every, 1)]
    return [
        Effect(*what, "weight of the online network per update", *per_update, sample=sample),
        Effect(*what, "updates that the copy is behind, mean", *lags, sample=sample),
    ]


@torch.no_grad()
def mean_lag(tau: float, every: int, updates: int, before_step: bool) -> float:
    """How far a copy is behind a weight that grows by 1 an update, when a loss reads both; over the second half."""
    online = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    online.weight.zero_()
    copy, lags = frozen_copy(online), []
    for update in range(updates):
        lags.append(float(online.weight - copy.weight))
        online.weight.add_(0 if before_step else 1)
        if update % every == 0:
            momentum_update(copy, online, tau)
        online.weight.add_(1 if before_step else 0)
    return mean(lags[updates // 2 :])


def mask_counts(lab: Lab, benchmark: str) -> list[Effect]:
    """F16."""
    config, generator = lab.config(), torch.Generator().manual_seed(1)
    mlr, size = config.mlr, config.environment.image_size
    clips = -(-lab.sizes.draws * mlr.mask.cube_depth // mlr.seq_len)
    steps = torch.cat([sample_mask(mlr.mask, mlr.seq_len, size, generator, CPU) for _ in range(clips)])
    blocks = steps[:, :: mlr.mask.cube_depth].flatten(2).double()  # [clips, blocks, cells]
    independent = torch.full_like(blocks, mlr.mask.ratio).bernoulli(generator=generator)
    what, sample = ("F16", benchmark), f"{blocks[..., 0].numel()} blocks of {blocks.shape[-1]} cells"
    cells = blocks.shape[-1]
    spreads = [number(masks.sum(-1).std(correction=0) / cells) for masks in (blocks, independent)]
    return [
        Effect(*what, "standard deviation of a block's hidden share", *spreads, sample=sample),
        Effect(*what, "one mask for the batch against one for each window", "not measured", "not measured"),
    ]


# Tables

COLUMNS = tuple(field.name for field in fields(Effect))


def write_csv(path: Path, effects: Sequence[Effect], settings: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "settings"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(effect), "settings": settings} for effect in effects)


def read_csv(path: Path) -> tuple[list[Effect], str]:
    """The effects of a file, and the settings that they were measured with."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Effect(*(row[name] for name in COLUMNS)) for row in rows], rows[0]["settings"]


def markdown(effects: Sequence[Effect]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(asdict(effect).values() for effect in effects)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
