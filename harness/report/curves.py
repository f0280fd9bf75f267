"""The picture of a single run: scores and, with an auxiliary, how well it predicts."""

from pathlib import Path

import numpy as np

from harness.logs import CsvLog
from harness.run_folder import RunFolder

BLUE, RED = "#0072b2", "#d55e00"  # apart for colour-blind readers too


def draw_learning_curve(folder: RunFolder, title: str, references: dict[str, float]) -> Path:
    """Draws training returns and evaluation scores of a run over environment steps; returns the PNG's path.

    references: scores to compare with, by name; a line each, or its value alone where the run is far from it.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics, evaluations = CsvLog(folder.metrics).read(), CsvLog(folder.evaluations).read()
    steps, cosine = _series(metrics, "train/mlr_cosine_hidden")
    heights = [3.4, 2.0] if steps else [3.4]
    figure, axes = plt.subplots(
        len(heights),
        figsize=(6.4, sum(heights)),
        height_ratios=heights,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    panels = axes[:, 0]
    _draw_scores(panels[0], metrics, evaluations, references)
    panels[0].set_title(title, fontsize="medium")
    if steps:
        panels[1].semilogy(steps, 1 - np.array(cosine), color=BLUE, marker=".")
        panels[1].set_ylabel("1 - cosine of\nprediction and target")
    panels[-1].set_xlabel("environment steps")
    for panel in panels:
        panel.grid(alpha=0.3)
    path = folder.media / "learning_curve.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _draw_scores(axes, metrics: list[dict], evaluations: list[dict], references: dict[str, float]) -> None:
    axes.plot(*_series(metrics, "train/episode_return"), color=BLUE, marker=".", label="training episodes")
    scores: dict[int, list[float]] = {}
    for row in evaluations:
        scores.setdefault(int(row["env_steps"]), []).append(float(row["score"]))
    if scores:
        axes.errorbar(
            list(scores),
            [np.mean(episodes) for episodes in scores.values()],
            [np.std(episodes) for episodes in scores.values()],
            color=RED,
            fmt="o",
            capsize=3,
            label=f"evaluation: mean and std of {len(next(iter(scores.values())))} episodes",
        )
    low, high = axes.get_ylim()
    for (name, value), line in zip(references.items(), (":", "--", "-.", (0, (5, 5))), strict=False):
        near = 2 * low - high <= value <= 2 * high - low  # one far away would flatten the curve
        where = "" if near else ", off the scale"
        axes.axhline(value if near else np.nan, color="0.5", linestyle=line, label=f"{name}: {value:g}{where}")
    axes.set_ylabel("score")
    axes.legend(fontsize="small", framealpha=0.8, edgecolor="none")


def _series(rows: list[dict], key: str) -> tuple[list[int], list[float]]:
    rows = [row for row in rows if row.get(key)]
    return [int(row["env_steps"]) for row in rows], [float(row[key]) for row in rows]
