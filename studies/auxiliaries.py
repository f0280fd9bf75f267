"""Set the auxiliaries side by side: python -m studies.auxiliaries [--docs FILE] [--picture FILE]

Counts parameters and operations of an update where nothing is computed, on torch's meta device: Atari with 6 actions,
cartpole_swingup with its one. Operations are those of products and convolutions, two per multiply-add.

Examples:
  python -m studies.auxiliaries
  python -m studies.auxiliaries --docs docs/auxiliaries.md --picture docs/images/auxiliaries.png
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from gymnasium.spaces import Box, Discrete
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from auxiliaries import AUXILIARIES
from harness.command_line import Options
from harness.config import ConfigError, require
from harness.messages import refuse
from harness.operations import built_on_meta, run_operations
from harness.recipe import Spaces
from harness.report.figures import FAINT, INK, PAPER, SETTINGS
from recipes import COMMANDS, load_recipe

TASKS = {"atari": "game=pong", "dmcontrol": "task=cartpole_swingup"}
LABELS = {"atari": "Atari", "dmcontrol": "DMControl"}
ACTIONS = {"atari": Discrete(6), "dmcontrol": Box(-1.0, 1.0, (1,), np.float32)}
PRESETS = ("full", "cpu")
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


# Descriptions of the auxiliaries


@dataclass(frozen=True)
class Station:
    """A box of the picture: its text, what kind it is, its column and its lane from above."""

    text: str
    kind: str  # data, trained, copy, loss
    column: float
    lane: float


@dataclass(frozen=True)
class Description:
    """An auxiliary in words and as a flow of data."""

    label: str
    predicted: str
    source: str
    target: str
    views: str
    window: str
    boxes: tuple[Station, ...]
    arrows: tuple[tuple[int, int], ...]  # from a box to another


def two_lanes(*texts: tuple[str, ...]) -> tuple[tuple[Station, ...], tuple[tuple[int, int], ...]]:
    """Boxes and arrows of an online lane and a target lane that meet in a loss."""
    online, target, loss = texts
    kinds = ("data", "data", "trained", "trained", "trained")
    boxes = [
        Station(text, kind, column, 0) for column, (text, kind) in enumerate(zip(online, kinds, strict=True)) if text
    ]
    first = len(boxes)
    kinds = ("data", "data", "copy", "copy", "copy")
    boxes += [
        Station(text, kind, column, 1) for column, (text, kind) in enumerate(zip(target, kinds, strict=True)) if text
    ]
    boxes.append(Station(loss[0], "loss", 5, 0.5))
    last = len(boxes) - 1
    lanes = (range(first), range(first, last))
    arrows = [(lane[place], lane[place + 1]) for lane in lanes for place in range(len(lane) - 1)]
    return tuple(boxes), (*arrows, (first - 1, last), (last - 1, last))


SPR_LANES = two_lanes(
    ("observation 0", "view", "encoder", "transition,\none action a step", "projector,\npredictor"),
    ("observations\n1 to K", "views of\ntheir own", "momentum\nencoder", "", "momentum\nprojector"),
    ("2 - 2 cos,\nsteps 1 to K",),
)


def with_cycle(
    boxes: tuple[Station, ...], arrows: tuple[tuple[int, int], ...]
) -> tuple[tuple[Station, ...], tuple[tuple[int, int], ...]]:
    """SPR's flow with the virtual trajectories below it, which come back to observation 0."""
    encoder, count = 2, len(boxes)
    further = (
        Station("random actions", "data", 2, 2),
        Station("transition K steps,\nbackward model K", "trained", 3, 2),
        Station("projector,\npredictor", "trained", 4, 2),
        Station("2 - 2 cos to\nobservation 0", "loss", 5, 2),
    )
    routes = ((count, count + 1), (encoder, count + 1), (count + 1, count + 2), (count + 2, count + 3))
    return (*boxes, *further), (*arrows, *routes)


DESCRIPTIONS = {
    "mlr": Description(
        "MLR",
        "projected latents of all steps",
        "latents of masked observations, and the actions",
        "momentum encoder and projector on the whole observations",
        "one masked, one whole",
        "16 steps",
        *two_lanes(
            (
                "window of\nobservations",
                "masked in\ncubes, view",
                "encoder",
                "decoder with\nthe actions",
                "projector,\npredictor",
            ),
            ("the same,\nwhole", "view of\nits own", "momentum\nencoder", "", "momentum\nprojector"),
            ("2 - 2 cos,\nall steps",),
        ),
    ),
    "spr": Description(
        "SPR",
        "projected latents of the next steps",
        "latent of the first observation, and the actions",
        "momentum encoder and projector on the later observations",
        "one of the first (Atari: the RL view), one of each step",
        "6 steps; DMControl 7",
        *SPR_LANES,
    ),
    "playvirtual": Description(
        "PlayVirtual",
        "as SPR; also the first latent, through virtual steps forth and back",
        "as SPR; also random actions",
        "as SPR; also fresh views of the first observation",
        "as SPR; also one a virtual copy",
        "10 steps; DMControl 7",
        *with_cycle(*SPR_LANES),
    ),
    "curl": Description(
        "CURL",
        "which key belongs to an observation",
        "latent of the RL view; on Atari through a head",
        "Atari: momentum encoder and head. DMControl: the critic's target encoder",
        "the RL view, and one further crop",
        "none: the RL batch",
        *two_lanes(
            ("RL batch", "RL view", "encoder", "head\n(Atari)", "bilinear\nproduct W"),
            ("the same", "another crop", "target or\nmomentum encoder", "momentum head\n(Atari)", ""),
            ("cross entropy\namong the batch",),
        ),
    ),
    "autoencoder": Description(
        "Autoencoder",
        "pixels in 32 levels",
        "latent of the RL view",
        "the same view's pixels, with noise within a level",
        "the RL view",
        "none: the RL batch",
        *two_lanes(
            ("RL batch", "RL view", "encoder", "decoder", ""),
            ("", "the same view", "", "32 levels\nand noise", ""),
            ("mean squared\nerror",),
        ),
    ),
}


# Counts


@dataclass(frozen=True)
class Cost:
    parameters: int  # parameters of the auxiliary's own modules
    operations: float  # operations in an update
    added: float  # operations beyond those of an update without an auxiliary


def cost(suite: str, preset: str, auxiliary: str) -> Cost | None:
    """Cost of an auxiliary on a suite, None where the suite does not have it."""
    try:
        config = COMMANDS[suite].resolve([TASKS[suite], f"preset={preset}", f"auxiliary={auxiliary}"])
    except ConfigError:
        return None
    method = load_recipe(config).method
    spaces = Spaces(Box(0, 255, config.observation_shape, np.uint8), ACTIONS[suite])
    operations = run_operations(method, config, spaces, {"update": 1})
    if auxiliary == "none":
        return Cost(0, operations, 0.0)
    agent, _ = built_on_meta(method, config, spaces)
    parameters = sum(parameter.numel() for parameter in agent.auxiliary.owned.parameters())
    return Cost(parameters, operations, operations - cost(suite, preset, "none").operations)


def rows() -> Iterator[list[str]]:
    """A table of aspects by auxiliary, header first."""
    names = [name for name in DESCRIPTIONS if name in AUXILIARIES]
    chosen = [DESCRIPTIONS[name] for name in names]
    yield ["", *(each.label for each in chosen)]
    for aspect in ("predicted", "from", "target", "views", "window"):
        yield [aspect, *(getattr(each, "source" if aspect == "from" else aspect) for each in chosen)]
    for suite in TASKS:
        found = {preset: [cost(suite, preset, name) for name in names] for preset in PRESETS}
        for preset in PRESETS:
            yield [f"{LABELS[suite]} `{preset}`: own parameters", *(parameters_text(each) for each in found[preset])]
        for preset in PRESETS:
            base = cost(suite, preset, "none").operations
            title = f"{LABELS[suite]} `{preset}`: GFLOP added to {gflop(base)}"
            yield [title, *("-" if each is None else f"+{gflop(each.added)}" for each in found[preset])]


def parameters_text(found: Cost | None) -> str:
    if found is None:
        return "-"
    return f"{found.parameters / 1e6:.2f} M" if found.parameters >= 1e5 else f"{found.parameters:,}"


def gflop(operations: float) -> str:
    """GFLOP with three digits."""
    value = operations / 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(table: list[list[str]]) -> str:
    header, *body = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([header, "|---" * len(table[0]) + "|", *body])


def write_docs(path: Path, table: list[list[str]]) -> None:
    """Puts the table between the marks of a page. Raises ConfigError for a page without them."""
    text = path.read_text()
    require(BEGIN in text and END in text, f"{path} has no {BEGIN} and {END}: add both where the table belongs")
    before, rest = text.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{markdown(table)}\n{END}{rest.split(END)[1]}")


# The picture

FILLS = {"data": "#eef0f2", "trained": "#cfe5f5", "copy": "#fbe3bd", "loss": "#cdeadf"}
EDGES = {"data": "#6b7680", "trained": "#0072b2", "copy": "#e69f00", "loss": "#009e73"}
MEANINGS = {
    "data": "data",
    "trained": "trained by the loss",
    "copy": "without gradient",
    "loss": "loss",
}
WIDE, HIGH, BOX_WIDE, BOX_HIGH, LEFT = 1.55, 0.62, 1.26, 0.46, 1.1  # inches: of a column, a lane, a box, the labels


def draw(path: Path) -> None:
    """Draws the flow of data of every auxiliary that there is, one below the other."""
    chosen = [each for name, each in DESCRIPTIONS.items() if name in AUXILIARIES]
    heights = [1 + max(box.lane for box in each.boxes) for each in chosen]
    gap, legend = 0.35, 0.6
    height = legend + sum(heights) * HIGH + gap * len(chosen)
    width = LEFT + 6 * WIDE
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.axis("off")
        draw_legend(axes, height - legend / 2)
        top = height - legend
        for description, lanes in zip(chosen, heights, strict=True):
            axes.plot([0.1, width - 0.1], [top, top], color=FAINT, linewidth=0.8)
            draw_flow(axes, description, top - gap / 2)
            top -= lanes * HIGH + gap
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def draw_legend(axes: Axes, y: float) -> None:
    for place, (kind, meaning) in enumerate(MEANINGS.items()):
        x = LEFT + place * 2.2
        axes.add_patch(FancyBboxPatch((x, y - 0.09), 0.3, 0.18, "round,pad=0,rounding_size=0.04",
                                      facecolor=FILLS[kind], edgecolor=EDGES[kind]))  # fmt: skip
        axes.text(x + 0.4, y, meaning, va="center", color=INK)


def draw_flow(axes: Axes, description: Description, top: float) -> None:
    """Draws the boxes and arrows of one auxiliary below the line `top`."""
    lanes = 1 + max(box.lane for box in description.boxes)
    axes.text(0.15, top - lanes * HIGH / 2, description.label, va="center", fontweight="bold", color=INK)
    centres = [(LEFT + (box.column + 0.5) * WIDE, top - (box.lane + 0.5) * HIGH) for box in description.boxes]
    for start, end in description.arrows:
        axes.annotate("", xy=edge(centres[end], centres[start], towards=False),
                      xytext=edge(centres[start], centres[end], towards=True),
                      arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0})  # fmt: skip
    for box, (x, y) in zip(description.boxes, centres, strict=True):
        axes.add_patch(FancyBboxPatch((x - BOX_WIDE / 2, y - BOX_HIGH / 2), BOX_WIDE, BOX_HIGH,
                                      "round,pad=0,rounding_size=0.06", facecolor=FILLS[box.kind],
                                      edgecolor=EDGES[box.kind]))  # fmt: skip
        axes.text(x, y, box.text, ha="center", va="center", fontsize=7.5, color=INK, linespacing=1.1)


def edge(box: tuple[float, float], other: tuple[float, float], towards: bool) -> tuple[float, float]:
    """Point on a box where an arrow from or to another begins or ends: its right or left side, or top or bottom."""
    if box[0] == other[0]:
        return box[0], box[1] + (BOX_HIGH / 2 if other[1] > box[1] else -BOX_HIGH / 2)
    return box[0] + (BOX_WIDE / 2 if towards else -BOX_WIDE / 2), box[1]


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__, "python -m studies.auxiliaries")
    parser.add_argument("--docs", type=Path, help="page into which the table goes")
    parser.add_argument("--picture", type=Path, help="PNG of the flows of data")
    try:
        options = parser.parse_args(arguments)
        table = list(rows())
        print(markdown(table))
        if options.docs:
            write_docs(options.docs, table)
        if options.picture:
            draw(options.picture)
    except (ConfigError, OSError) as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
