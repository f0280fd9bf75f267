"""Agents of one task side by side: a video of the first episode of each, and a picture of it beside the scores."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from harness.episodes import PLAYED, unpack
from harness.logs import CsvLog
from harness.recipe import Suite
from harness.video import SMALLEST_HEIGHT, video_writer

COLUMNS = 6  # moments of the picture
CAPTION = 44  # pixels above a panel
Moment = tuple[np.ndarray, float]  # picture uint8 [H, W, 3], score so far


@dataclass(frozen=True)
class Shown:
    """An agent, and the rows of its evaluation with the way it was played."""

    label: str
    config: Any
    suite: Suite
    rows: list[dict]

    @cached_property
    def scores(self) -> np.ndarray:
        return np.array([row["score"] for row in self.rows])

    def __str__(self) -> str:
        return f"{self.label}: {self.scores.mean():.1f} +- {self.scores.std():.1f} over {len(self.scores)} episodes"

    @property
    def steps(self) -> int:
        """Length of the first episode."""
        return self.rows[0]["episode_agent_steps"]

    def moments(self) -> Iterator[Moment]:
        """The first episode once more: its `steps` + 1 moments."""
        seed, actions = (self.rows[0][PLAYED][name] for name in ("environment_seed", "actions"))
        with closing(self.suite.make_environment(self.config, seed, 0, False)) as environment:
            environment.reset()
            score = 0.0
            yield environment.render(), score
            for action in unpack(actions):
                score += float(environment.step(action if action.ndim else action.item())[1])
                yield environment.render(), score


def write_side_by_side(agents: Sequence[Shown], evaluations: Path, out: Path) -> list[Path]:
    """Writes side_by_side.mp4 and .png into `out`; `evaluations` are the first agent's, for its learning curve."""
    video, picture = out / "side_by_side.mp4", out / "side_by_side.png"
    chosen = np.linspace(0, max(agent.steps for agent in agents), COLUMNS).round().astype(int)
    kept: list[list[Moment]] = []
    with closing(agents[0].suite.make_environment(agents[0].config, 0, 0, False)) as environment:
        fps = environment.metadata["render_fps"]
    last: list[Moment | None] = [None] * len(agents)
    with video_writer(video, fps, 1) as append:
        for step, moments in enumerate(zip_longest(*(agent.moments() for agent in agents))):
            last = [new or old for new, old in zip(moments, last, strict=True)]  # an episode that is over stands still
            append(np.concatenate(list(map(panel, agents, last)), axis=1))
            kept += [last] * int((chosen == step).sum())
    draw(agents, kept, chosen, evaluations, picture)
    return [video, picture]


def panel(agent: Shown, moment: Moment) -> np.ndarray:
    """A captioned picture, uint8 [SMALLEST_HEIGHT + CAPTION, W, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    picture, score = Image.fromarray(moment[0]), moment[1]
    picture = picture.resize((max(1, picture.width * SMALLEST_HEIGHT // picture.height), SMALLEST_HEIGHT), 0)
    framed = Image.new("RGB", (picture.width + 4, SMALLEST_HEIGHT + CAPTION), "white")
    framed.paste(picture, (2, CAPTION))
    write = partial(ImageDraw.Draw(framed).text, fill="black", font=ImageFont.load_default(15))
    write((4, 2), agent.label)
    write((4, 22), f"score {score:.0f}")
    return np.asarray(framed)


def draw(
    agents: Sequence[Shown], kept: Sequence[Sequence[Moment]], chosen: np.ndarray, evaluations: Path, file: Path
) -> None:
    """Draws the kept moments, a row per agent, and the first agent's learning curve with the others' scores."""
    from matplotlib.figure import Figure

    height = 2.3 * len(agents)
    figure, top = Figure(figsize=(18, height)), 1 - 0.35 / height  # inches for a title
    grid = figure.add_gridspec(
        len(agents), COLUMNS, left=0.01, right=0.68, bottom=0.05, top=top, wspace=0.03, hspace=0.32
    )
    for row, agent in enumerate(agents):
        for column, moments in enumerate(kept):
            axes = figure.add_subplot(grid[row, column], xticks=[], yticks=[])
            axes.imshow(moments[row][0])
            if column == 0:
                axes.set_title(str(agent), loc="left", fontsize=12, color=f"C{row}")
            axes.set_xlabel(f"step {min(chosen[column], agent.steps)}, score {moments[row][1]:.0f}", fontsize=9)
    axes = figure.add_axes((0.73, 0.12, 0.26, 0.81), xlabel="environment steps", ylabel="score of an evaluation")
    scores: dict[int, list[float]] = {}
    for entry in CsvLog(evaluations).read():
        scores.setdefault(int(entry["env_steps"]), []).append(float(entry["score"]))
    axes.plot([*scores], [np.mean(values) for values in scores.values()], "o-", label=agents[0].label)
    for row, agent in enumerate(agents[1:], start=1):
        axes.axhline(agent.scores.mean(), color=f"C{row}", linestyle="--", label=agent.label)
    axes.set_title(agents[0].config.task)
    axes.legend(fontsize=9)
    figure.savefig(file, dpi=100)
