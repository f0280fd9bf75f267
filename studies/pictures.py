"""Pictures of a clip and its mask, to be understood without the text around them: PNG and GIF.

K steps of a clip, B clips, h w pixels, c channels (1 gray, 3 colour), s side of an augmented view, g cells a side.
Lengths are in inches, y upwards. Blue and orange, which colour-blind readers tell apart, are the colours of successive
blocks of the mask.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from harness.report.figures import FAINT, INK, PAPER, SETTINGS
from mlr.config import MaskConfig

BLOCKS = ("#0072b2", "#e69f00")
OWN, OTHER = "#009e73", INK
NOTE = "#59636e"  # text of second rank
VISIBLE = "#eef0f2"  # cells of the mask
OUTLINE = "#6b7680"  # hidden cells in a frame
SHADES = ((INK, 0.35), (PAPER, 0.4), (PAPER, 0.0))  # colour and share mixed into the end, top and front of a cube
DPI = 200
COLUMNS = 8  # steps that are drawn, evenly spaced over the clip
LABEL, CELL, GAP, ROW_GAP, MARGIN = 1.95, 0.84, 0.05, 0.12, 0.08  # at DPI a cell is 168 pixels
PAGE = LABEL + COLUMNS * (CELL + GAP) - GAP + MARGIN  # wide
STRATEGY_WIDTH, STRATEGY_CELL = 2.9, 0.66
GIF_CELL, GIF_GAP, GIF_MILLISECONDS = 252, 14, 250  # pixels, and the time that a step is shown


@dataclass(frozen=True)
class Clip:
    """The newest frame of each step, in every state that is drawn."""

    title: str
    frames: np.ndarray  # uint8 [K, h, w, c]
    masked: np.ndarray  # uint8 [K, h, w, c], 0 where hidden
    masked_view: np.ndarray  # uint8 [K, s, s, c], the masked frames, augmented
    target_view: np.ndarray  # uint8 [K, s, s, c], the whole frames, augmented on their own
    mask: np.ndarray  # bool [K, g, g], True where hidden
    hidden: np.ndarray  # [K], share of the step's pixels
    config: MaskConfig

    @property
    def depth(self) -> int:
        """Steps that are masked together."""
        return self.config.cube_depth if self.config.strategy == "cube" else 1


@dataclass(frozen=True)
class Agreement:
    """Cosines of predictions and targets."""

    own: np.ndarray  # [K, B], with the prediction's own target
    other: np.ndarray  # [K, B], with the target of another clip at the same step
    hidden: np.ndarray  # [K], share of the step's pixels

    def mean_own(self, weights: np.ndarray) -> float:
        """Mean cosine with the own target over steps weighted by [K]; NaN if all weights are 0."""
        return float(np.average(self.own.mean(axis=1), weights=weights)) if weights.any() else float("nan")

    def report(self) -> str:
        own, other = float(self.own.mean()), float(self.other.mean())
        return (
            f"cosine of prediction and target, mean over {self.own.shape[1]} clips of {len(self.own)} steps\n"
            f"  its own target             {own:.4f}  "
            f"(hidden {self.mean_own(self.hidden):.4f}, visible {self.mean_own(1 - self.hidden):.4f})\n"
            f"  the target of another clip {other:.4f}\n"
            f"  difference                 {own - other:.4f}  (near 0: the prediction fits any clip)"
        )


def draw_clip(path: Path, clip: Clip, agreement: Agreement | None) -> Path:
    """PNG: time from left to right; rows for what is shown, hidden, and given to either branch; then the agreement."""
    steps = shown_steps(len(clip.mask))
    xs = [LABEL + i * (CELL + GAP) for i in range(len(steps))]
    rows = [
        ("What is on the screen", "the newest frame of each observation", clip.frames),
        ("The mask", mask_in_words(clip), None),
        ("What is left to see", "gray outlines: hidden, that is 0, in all stacked frames", clip.masked),
        ("Masked branch", "what is left, its crop and brightness random: goes into the encoder", clip.masked_view),
        ("Target branch", "complete, with other crops and brightness: its latents are predicted", clip.target_view),
    ]
    title, axis, cubes, note = 0.36, 0.42, 1.32, 0.3
    panel = 1.95 if agreement else 0.0
    height = title + axis + len(rows) * (CELL + ROW_GAP) + cubes + panel + note
    with page(path, PAGE, height) as canvas:
        canvas.text(MARGIN, height - 0.1, clip.title, size=11, weight="bold", va="top")
        y = height - title - axis
        draw_time(canvas, clip, steps, xs, y)
        draw_boundaries(canvas, clip, steps, xs, y - len(rows) * (CELL + ROW_GAP) + ROW_GAP, y)
        for label, detail, images in rows:
            draw_label(canvas, y, label, detail)
            y -= CELL
            for x, step in zip(xs, steps, strict=True):
                if images is None:
                    draw_mask(canvas, x, y, clip, step)
                else:
                    draw_image(canvas, x, y, CELL, images[step])
                if images is clip.masked:  # black on a dark game is hard to see
                    draw_cells(canvas, x, y, clip.mask[step], facecolor="none", edgecolor=OUTLINE, linewidth=0.4)
            y -= ROW_GAP
        draw_label(canvas, y, "The mask in one piece", "time runs to the right; each bar is a cube of hidden cells")
        draw_cubes(canvas, LABEL, y - cubes + 0.2, xs[-1] + CELL - LABEL, cubes - 0.2, clip)
        y -= cubes
        if agreement:
            draw_label(canvas, y, "Is the prediction right?", agreement_in_words(agreement))
            box = (LABEL - GAP / 2, y - panel + 0.3, len(steps) * (CELL + GAP), panel - 0.62)
            draw_agreement(canvas, box, len(steps) * stride(len(clip.mask)), agreement)
        canvas.text(MARGIN, 0.1, caption(clip), size=8, color=NOTE, va="bottom")
    return path


def draw_strategies(path: Path, clips: Sequence[Clip]) -> Path:
    """PNG: the masks of several clips side by side, each in one piece and over four of its frames."""
    width = len(clips) * (STRATEGY_WIDTH + 0.2) - 0.2 + 2 * MARGIN
    height = 3.05
    with page(path, width, height) as canvas:
        for i, clip in enumerate(clips):
            x = MARGIN + i * (STRATEGY_WIDTH + 0.2)
            canvas.text(x, height - 0.08, clip.config.strategy, size=11, weight="bold", va="top")
            canvas.text(x, height - 0.3, fill(strategy_in_words(clip), 44), size=8, color=NOTE, va="top")
            draw_cubes(canvas, x, 1.08, STRATEGY_WIDTH, 1.25, clip)
            steps = np.linspace(0, len(clip.mask) - 1, 4).round().astype(int)
            for j, step in enumerate(steps):
                left = x + j * (STRATEGY_WIDTH - STRATEGY_CELL) / 3
                draw_image(canvas, left, 0.28, STRATEGY_CELL, clip.masked[step])
                canvas.text(left + STRATEGY_CELL / 2, 0.08, step_name(step), size=8, ha="center")
    return path


def animate(path: Path, clip: Clip) -> Path:
    """GIF: what is on the screen, what is left of it, and the target branch, a step at a time."""
    panels = (
        ("on the screen", clip.frames),
        (f"left to see: {1 - clip.hidden.mean():.0%}", clip.masked),
        ("target branch", clip.target_view),
    )
    pictures = [_animation_step(clip, panels, step) for step in range(len(clip.mask))]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=GIF_MILLISECONDS, loop=0)
    return path


def block_colour(clip: Clip, step: int) -> str:
    """Changes from block to block; blocks of one step are all alike."""
    return BLOCKS[step // clip.depth % 2 if clip.depth > 1 else 0]


def stride(length: int) -> int:
    """Steps from one drawn step to the next."""
    return -(-length // COLUMNS)


def shown_steps(length: int) -> range:
    return range(0, length, stride(length))


def step_name(step: int) -> str:
    return f"t + {step}" if step else "t"


def mask_in_words(clip: Clip) -> str:
    if clip.config.strategy == "temporal":
        return "whole frames are hidden"
    if clip.depth == 1:
        return "colour is hidden; every step hides other cells"
    return f"colour is hidden; a cube starts at a dark outline and lasts {clip.depth} steps"


def strategy_in_words(clip: Clip) -> str:
    return {
        "cube": f"{clip.depth} steps in a row hide the same cells: what moves cannot be copied from the step before",
        "spatial": "every step hides other cells: the next one often shows what this one hides",
        "temporal": "whole frames are hidden: nothing of such a step is seen",
    }[clip.config.strategy]


def agreement_in_words(agreement: Agreement) -> str:
    return (
        f"cosine of prediction and target, mean over {agreement.own.shape[1]} clips, band: one standard deviation; "
        "where the two lines meet, the prediction fits any clip"
    )


def caption(clip: Clip) -> str:
    config, cells = clip.config, clip.mask[0].size
    hidden = f"{clip.mask.any(axis=(1, 2)).sum()} of {len(clip.mask)} steps"
    if config.strategy != "temporal":
        hidden = f"{clip.mask[0].sum()} of {cells} cells in every step, {clip.hidden.mean():.1%} of the pixels"
    depth = f", cube depth {config.cube_depth} steps" if config.strategy == "cube" else ""
    side = clip.mask.shape[-1]
    return (
        f"strategy {config.strategy}, ratio {config.ratio:g}, patch {config.patch_size} pixels "
        f"({side} × {side} cells){depth}; hidden: {hidden}"
    )


@contextmanager
def page(path: Path, width: float, height: float) -> Iterator[Axes]:
    """Axes in inches over a whole figure, which is written at the end."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height))
        canvas = figure.add_axes((0, 0, 1, 1))
        canvas.set(xlim=(0, width), ylim=(0, height), autoscale_on=False)
        canvas.axis("off")
        yield canvas
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.BytesIO() as file:
            figure.savefig(file, dpi=DPI)
            picture = Image.open(file).convert("RGB")  # 256 colours take a quarter of the bytes
            picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_label(canvas: Axes, top: float, label: str, detail: str) -> None:
    canvas.text(MARGIN, top, label, size=9, weight="bold", va="top")
    canvas.text(MARGIN, top - 0.18, fill(detail, 26), size=8, color=NOTE, va="top", linespacing=1.15)


def draw_image(canvas: Axes, x: float, y: float, size: float, image: np.ndarray) -> None:
    """An image uint8 [h, w, c] with its lower left corner at x, y."""
    gray = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
    canvas.imshow(np.squeeze(image), extent=(x, x + size, y, y + size), aspect="auto", **gray)


def draw_mask(canvas: Axes, x: float, y: float, clip: Clip, step: int) -> None:
    """Hidden cells in their block's colour, with a dark outline where their block is drawn first."""
    starts = step - stride(len(clip.mask)) < step // clip.depth * clip.depth
    outline = {"edgecolor": INK, "linewidth": 1.0} if starts else {"edgecolor": PAPER, "linewidth": 0.5}
    draw_cells(canvas, x, y, ~clip.mask[step], facecolor=VISIBLE, edgecolor=PAPER, linewidth=0.5)
    draw_cells(canvas, x, y, clip.mask[step], facecolor=block_colour(clip, step), **outline)


def draw_cells(canvas: Axes, x: float, y: float, cells: np.ndarray, **style) -> None:
    """The cells bool [g, g] of a frame with its lower left corner at x, y."""
    side = CELL / len(cells)
    for row, column in np.argwhere(cells):
        canvas.add_patch(Rectangle((x + column * side, y + CELL - (row + 1) * side), side, side, **style))


def draw_time(canvas: Axes, clip: Clip, steps: Sequence[int], xs: Sequence[float], y: float) -> None:
    """Names of the columns, and a bracket over those that share their hidden cells."""
    for x, step in zip(xs, steps, strict=True):
        canvas.text(x + CELL / 2, y + 0.05, step_name(step), size=9, ha="center", va="bottom")
    if clip.depth <= stride(len(clip.mask)):
        return
    for block in range(len(clip.mask) // clip.depth):
        inside = [x for x, step in zip(xs, steps, strict=True) if step // clip.depth == block]
        left, right = inside[0], inside[-1] + CELL
        colour = block_colour(clip, block * clip.depth)
        canvas.plot([left, right], [y + 0.25] * 2, color=colour, linewidth=2.5, solid_capstyle="butt")
        if len(inside) == 1:
            continue  # no room
        first, last = step_name(block * clip.depth), step_name((block + 1) * clip.depth - 1)
        text = f"{first} to {last} hide the same cells" if block == 0 else f"new cells for {first} to {last}"
        canvas.text((left + right) / 2, y + 0.3, text, size=8, ha="center", va="bottom")


def draw_boundaries(
    canvas: Axes, clip: Clip, steps: Sequence[int], xs: Sequence[float], bottom: float, top: float
) -> None:
    """A dashed line between columns of different blocks, where a block has several columns."""
    if clip.depth <= stride(len(clip.mask)):
        return
    for before, after, x in zip(steps, steps[1:], xs[1:], strict=False):
        if before // clip.depth != after // clip.depth:
            canvas.plot([x - GAP / 2] * 2, [bottom, top + 0.2], color=INK, linewidth=1.2, linestyle=(0, (3, 2)))


def draw_cubes(canvas: Axes, x: float, y: float, width: float, height: float, clip: Clip) -> None:
    """The hidden cells of all steps as boxes in an oblique view from the left and above; time runs to the right."""
    steps, side = clip.mask.shape[:2]
    slant = np.array([0.42, 0.36]) * height  # from the front to the back, to the left and up

    def corner(step: float, row: float, column: float) -> tuple[float, float]:
        back = (side - column) / side * slant
        front = x + slant[0] + step / steps * (width - slant[0])
        return front - back[0], y + (side - row) / side * (height - slant[1]) + back[1]

    def faces(start: int, stop: int, row: int, column: int, size: int) -> list[list[tuple[float, float]]]:
        """End, top and front."""
        low, near = row + size, column + size
        corners = (
            ((start, row, column), (start, row, near), (start, low, near), (start, low, column)),
            ((start, row, column), (stop, row, column), (stop, row, near), (start, row, near)),
            ((start, row, near), (stop, row, near), (stop, low, near), (start, low, near)),
        )
        return [[corner(*point) for point in face] for face in corners]

    canvas.add_collection(
        PolyCollection(faces(0, steps, 0, 0, side), facecolors=VISIBLE, edgecolors=FAINT, linewidths=0.6)
    )
    polygons, colours = [], []
    for start, stop, row, column in sorted(bars(clip), key=lambda bar: (bar[3], -bar[2], -bar[0])):  # far ones first
        polygons += faces(start, stop, row, column, 1)
        colour = np.array(to_rgb(block_colour(clip, start)))
        colours += [(1 - share) * colour + share * np.array(to_rgb(other)) for other, share in SHADES]
    canvas.add_collection(PolyCollection(polygons, facecolors=colours, edgecolors=PAPER, linewidths=0.35))


def bars(clip: Clip) -> Iterator[tuple[int, int, int, int]]:
    """Start, stop, row and column of each stretch of steps that hides a cell; none reaches over a block's end."""
    for start in range(0, len(clip.mask), clip.depth):
        for row, column in np.argwhere(clip.mask[start]):
            yield start, start + clip.depth, row, column


def draw_agreement(canvas: Axes, box: tuple[float, float, float, float], steps: int, agreement: Agreement) -> None:
    """Cosines over all steps, below their columns, and the hidden shares as bars. box: left, bottom, width, height."""
    page_width, page_height = canvas.get_xlim()[1], canvas.get_ylim()[1]
    scale = np.array([page_width, page_height, page_width, page_height])
    axes = canvas.figure.add_axes(tuple(np.array(box) / scale))
    time = np.arange(len(agreement.own))
    mean, deviation = agreement.own.mean(axis=1), agreement.own.std(axis=1)
    axes.bar(time, agreement.hidden, width=0.8, color=FAINT, alpha=0.6, label="share of pixels that is hidden")
    axes.fill_between(time, mean - deviation, mean + deviation, color=OWN, alpha=0.25, linewidth=0)
    axes.plot(time, mean, color=OWN, marker="o", label=f"with its own target: {mean.mean():.4f}")
    other = agreement.other.mean(axis=1)
    axes.plot(
        time, other, color=OTHER, linestyle="--", marker="s", ms=3, label=f"with another clip's: {other.mean():.4f}"
    )
    axes.set(xlim=(-0.5, steps - 0.5), ylim=(min(0.0, float(agreement.other.min())) - 0.02, 1.08), yticks=(0, 0.5, 1))
    axes.set_xticks(time[:: stride(len(time))], [step_name(step) for step in shown_steps(len(time))])
    axes.grid(visible=False, axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, borderpad=0, columnspacing=1.6)


def _animation_step(clip: Clip, panels: Sequence[tuple[str, np.ndarray]], step: int) -> Image.Image:
    header, footer = 34, 46
    width = len(panels) * (GIF_CELL + GIF_GAP) + GIF_GAP
    picture = Image.new("RGB", (width, header + GIF_CELL + footer), PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(font_manager.findfont(SETTINGS["font.family"]), 15)
    for i, (label, images) in enumerate(panels):
        x = GIF_GAP + i * (GIF_CELL + GIF_GAP)
        draw.text((x + GIF_CELL / 2, header / 2), label, INK, font, anchor="mm")
        exact = GIF_CELL % images.shape[1] == 0
        resampling = Image.Resampling.NEAREST if exact else Image.Resampling.BICUBIC
        picture.paste(Image.fromarray(images[step].squeeze()).resize((GIF_CELL, GIF_CELL), resampling), (x, header))
    length = len(clip.mask)
    left, pitch = GIF_GAP, (width - 2 * GIF_GAP) / length
    top = header + GIF_CELL + 12
    for other in range(length):
        colour = block_colour(clip, other)
        box = (round(left + other * pitch), top, round(left + (other + 1) * pitch) - 4, top + 20)
        draw.rectangle(box, fill=colour if other == step else VISIBLE, outline=colour)
        name = step_name(other).replace(" ", "")
        draw.text(
            ((box[0] + box[2]) / 2, top + 10), name, PAPER if other == step else NOTE, font.font_variant(size=11), "mm"
        )
    return picture
