"""Figures of a trained world model: what masks leave and what comes back, and predictions without pictures.

`N` pictures, `L` of them in an episode, `P` pixels a side, `A` actions. Figures are PNG files; the open loop's errors
are CSV as well.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from harness.report.figures import INK, LINES, PALETTE, SETTINGS
from harness.seeding import derive_seed
from mwm.cells import hidden
from mwm.config import MWMSection
from mwm.dynamics import gumbel
from mwm.pictures import Prediction, open_loop_errors, show_masking, show_prediction, show_states, to_bytes

OBSERVED = 5  # pictures that a prediction sees, as in the released code
MASKED = 6  # pictures in a masking grid
SHOWN = 10  # steps in a prediction grid
SHOWN_WINDOWS = 2
CELL, LABEL, HEAD = 0.72, 1.25, 0.45  # inches
MASKING_HEAD = 0.68
DPI = 150


@dataclass(frozen=True)
class Played:
    """An episode: pictures uint8 [L, 3, P, P], and the actions float32 [L, A] that led to them, zeros first."""

    pictures: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Model:
    """Trained parts of a run, their settings, and a name for people."""

    section: MWMSection
    parts: nn.ModuleDict  # with autoencoder and dynamics
    name: str


def draw_world_model(
    model: Model, episode: Played, window: int, stem: Path, seed: int, beside: Model | None = None
) -> list[Path]:
    """Writes the figures of an episode, whose names begin with `stem`, and returns their paths.

    window: pictures that a prediction is about, at least twice those that it sees. `beside`: another run's model, whose
    reconstructions of the same pictures stand to the right. An episode without a window has the first figure alone, and
    a world model without masks has the others alone.
    """
    masked = [each for each in (model, beside) if each is not None and each.section.world_model == "mwm"]
    paths = [draw_masking(_named(stem, "masking.png"), masked, episode, seed)] if masked else []
    window = max(window, 2 * OBSERVED)
    if len(episode.pictures) >= window:
        shown, states = predict(model, episode, window, seed)
        errors = {name: error.tolist() for name, error in open_loop_errors(shown, states, OBSERVED).items()}
        paths.append(draw_prediction(_named(stem, "prediction.png"), model, shown))
        paths += draw_errors(_named(stem, "open_loop.png"), errors, len(shown.truth))
    return paths


def _named(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}_{kind}")


def generator_of(model: Model, seed: int, purpose: str) -> torch.Generator:
    """A generator of its own, so that a figure changes no number of a run."""
    device = next(model.parts.parameters()).device
    return torch.Generator(device).manual_seed(derive_seed(seed, "figures", purpose))


def predict(model: Model, episode: Played, window: int, seed: int) -> tuple[Prediction, Tensor]:
    """Open-loop prediction in the windows that an episode is cut into, and pictures of states that saw the truth."""
    windows = len(episode.pictures) // window
    pictures = episode.pictures[: windows * window].unflatten(0, (windows, window))
    actions = episode.actions[: windows * window].unflatten(0, (windows, window))
    first = torch.zeros(windows, window, dtype=torch.bool, device=pictures.device)
    first[:, 0] = True
    generator = generator_of(model, seed, "latent")

    def draw(shape: tuple[int, ...]) -> Tensor:
        return gumbel(torch.rand(shape, generator=generator, device=pictures.device))

    parts, windows_of = (model.parts["autoencoder"], model.parts["dynamics"]), (pictures, actions, first)
    shown = show_prediction(*parts, *windows_of, OBSERVED, None, draw)
    return shown, show_states(*parts, *windows_of, draw)


def draw_masking(path: Path, models: Sequence[Model], episode: Played, seed: int) -> Path:
    """Truth, what the mask leaves, and the reconstruction, in columns; one block of columns for each model."""
    chosen = np.linspace(0, len(episode.pictures) - 1, MASKED).astype(int)
    pictures = episode.pictures[torch.from_numpy(chosen)]
    size, blocks = pictures.shape[-1], []
    for model in models:
        autoencoder = model.parts["autoencoder"]
        generator = generator_of(model, seed, "mask")  # the same noise for every model
        noise = torch.rand(len(pictures), autoencoder.tokens, generator=generator, device=pictures.device)
        blocks.append(show_masking(autoencoder, pictures, noise))
    rows = ("truth", "mask", "reconstruction")
    gap, head = 0.3, MASKING_HEAD
    wide = LABEL + len(blocks) * (MASKED * CELL + gap)
    with matplotlib.rc_context(SETTINGS):
        canvas = Figure(figsize=(wide, head + 0.05 + 3 * CELL))
        for number, (model, block) in enumerate(zip(models, blocks, strict=True)):
            left = LABEL + number * (MASKED * CELL + gap)
            _write(canvas, left, 0.1, f"{model.name}\n{masking_note(model.section, size)}", va="top")
            for row, values in enumerate((block.truth, block.masked, block.reconstruction)):
                _strip(canvas, values, left, head + row * CELL)
        for row, name in enumerate(rows):
            _write(canvas, 0.08, head + (row + 0.5) * CELL, name, va="center")
        _save(canvas, path)
    return path


def masking_note(section: MWMSection, size: int) -> str:
    """Hidden share of tokens and pixels, in two lines."""
    tokens, dropped, share = hidden(section, size)
    what = "features of white cells, not their pixels" if section.stem == "conv" else "pixels of white cells"
    return f"{dropped} of {tokens} tokens are dropped: {what}\n{share:.0%} of the pixels are unseen"


def draw_prediction(path: Path, model: Model, shown: Prediction) -> Path:
    """Truth, the autoencoder's picture, and the open-loop prediction, at some steps of two windows."""
    windows, steps = shown.truth.shape[:2]
    windows = min(windows, SHOWN_WINDOWS)
    columns = np.unique(np.linspace(0, steps - 1, SHOWN).astype(int))
    rows = (("truth", shown.truth), ("reconstruction", shown.reconstruction), ("prediction", shown.prediction))
    with matplotlib.rc_context(SETTINGS):
        canvas = Figure(figsize=(LABEL + len(columns) * CELL + 0.1, HEAD + 0.3 + windows * (3 * CELL + 0.15)))
        title = f"{model.name}: {OBSERVED} steps with pictures, then by actions alone"
        _write(canvas, LABEL, 0.06, title, va="top")
        for column, step in enumerate(columns):
            note = f"step {step}" if step < OBSERVED else f"+{step - OBSERVED + 1}"
            _write(canvas, LABEL + (column + 0.5) * CELL, HEAD + 0.1, note, va="center", ha="center")
        for window in range(windows):
            for row, (name, values) in enumerate(rows):
                top = HEAD + 0.22 + window * (3 * CELL + 0.15) + row * CELL
                _strip(canvas, values[window, torch.from_numpy(columns)], LABEL, top)
                _write(canvas, 0.08, top + CELL / 2, name, va="center")
        _save(canvas, path)
    return path


def draw_errors(path: Path, errors: dict[str, list[float]], windows: int) -> list[Path]:
    """Mean squared error of pixels in 0..1 over the horizon, of each of `open_loop_errors`."""
    labels = {
        "open_loop": "open-loop prediction",
        "last_picture": "last picture seen",
        "last_reconstructed": "last picture seen, reconstructed",
        "truth_reconstructed": "true picture, reconstructed",
        "state_of_truth": "state that saw the true picture",
    }
    with matplotlib.rc_context(SETTINGS):
        canvas = Figure(figsize=(4.4, 3.8), layout="constrained")
        axes = canvas.subplots()
        for (name, values), colour, line in zip(errors.items(), PALETTE, LINES, strict=False):
            axes.plot(range(1, len(values) + 1), values, color=colour, ls=line, label=labels[name])
        axes.set_xlabel("steps without pictures")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("squared error of a pixel, 0..1")
        axes.set_ylim(bottom=0)
        axes.set_title(f"mean over {windows} window{'s' if windows > 1 else ''} of an episode", loc="left")
        canvas.legend(loc="outside lower center")
        _save(canvas, path)
    table = path.with_suffix(".csv")
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("step", *errors))
        writer.writerows(zip(range(1, len(errors["open_loop"]) + 1), *errors.values(), strict=True))
    return [path, table]


def _strip(canvas: Figure, pictures: Tensor, left: float, top: float) -> None:
    """Pictures [N, 3, P, P] beside each other; lengths in inches from the upper left corner."""
    wide, high = canvas.get_size_inches()
    for number, picture in enumerate(to_bytes(pictures).permute(0, 2, 3, 1).cpu().numpy()):
        x, side = left + number * CELL, CELL - 0.03
        axes = canvas.add_axes((x / wide, 1 - (top + side) / high, side / wide, side / high))
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()


def _write(canvas: Figure, x: float, y: float, text: str, **alignment: Any) -> None:
    wide, high = canvas.get_size_inches()
    canvas.text(x / wide, 1 - y / high, text, color=INK, fontsize=8, **alignment)


def _save(canvas: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=DPI)
