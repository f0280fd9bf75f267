"""The picture of a single run: scores and, with an auxiliary, how well it predicts."""

from pathlib import Path

import numpy as np

from mlr.results.scores import published
from mlr.training.loggers import CsvLog
from mlr.training.run_folder import RunFolder

BLUE, RED = "#0072b2", "#d55e00"  # apart for colour-blind readers too


def draw_learning_curve(folder: RunFolder, game: str) -> Path:
    """Draws training returns and evaluation scores of an Atari run over environment steps; returns the PNG's path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics, evaluations = CsvLog(folder.metrics).read(), CsvLog(folder.evaluations).read()
    has_mlr = any(row.get("train/mlr_loss") for row in metrics)
    height = 3.4
    figure, panels = plt.subplots(
        1 + has_mlr, 1, figsize=(6.4, height * (1 + 0.6 * has_mlr)), sharex=True, squeeze=False, layout="constrained",
        height_ratios=[1, 0.6][: 1 + has_mlr],
    )  # fmt: skip
    _draw_scores(panels[0, 0], metrics, evaluations, game)
    if has_mlr:
        _draw_prediction(panels[1, 0], metrics)
    panels[-1, 0].set_xlabel("environment steps")
    path = folder.media / "learning_curve.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _draw_scores(axes, metrics: list[dict], evaluations: list[dict], game: str) -> None:
    random, human = (published("atari")[game][player] for player in ("random", "human"))
    axes.plot(*_series(metrics, "train/episode_return"), color=BLUE, marker=".", label="training episodes")
    scores: dict[int, list[float]] = {}
    for row in evaluations:
        scores.setdefault(int(row["env_steps"]), []).append(float(row["score"]))
    if scores:
        steps = sorted(scores)
        axes.errorbar(
            steps,
            [np.mean(scores[step]) for step in steps],
            [np.std(scores[step]) for step in steps],
            color=RED,
            fmt="o",
            capsize=3,
            label=f"evaluation: mean and std of {len(scores[steps[-1]])} episodes",
        )
    axes.axhline(random, color="0.5", linestyle=":", label=f"random policy: {random:g}")
    axes.set_ylabel("raw game score")
    axes.set_title(f"{game} (a human scores {human:g})", fontsize="medium")
    axes.legend(fontsize="small", frameon=False)
    axes.grid(alpha=0.3)


def _draw_prediction(axes, metrics: list[dict]) -> None:
    axes.plot(*_series(metrics, "train/mlr_cosine_hidden"), color=BLUE, marker=".")
    axes.set_ylabel("cosine of prediction\nand target")
    axes.grid(alpha=0.3)


def _series(rows: list[dict], key: str) -> tuple[list[int], list[float]]:
    rows = [row for row in rows if row.get(key)]
    return [int(row["env_steps"]) for row in rows], [float(row[key]) for row in rows]
