"""Learning curves of a single run."""

from pathlib import Path

import numpy as np

from mlr.results.scores import published
from mlr.training.loggers import CsvLog
from mlr.training.run_folder import RunFolder


def draw_learning_curve(folder: RunFolder, game: str) -> Path:
    """Draws episode returns in training and evaluation scores over environment steps; returns the PNG's path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics = [row for row in CsvLog(folder.metrics).read() if row.get("train/episode_return")]
    evaluations: dict[int, list[float]] = {}
    for row in CsvLog(folder.evaluations).read():
        evaluations.setdefault(int(row["env_steps"]), []).append(float(row["score"]))

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.plot(
        [int(row["env_steps"]) for row in metrics],
        [float(row["train/episode_return"]) for row in metrics],
        color="#0072b2",
        marker=".",
        label="training episodes (mean of those ended since the last point)",
    )
    steps = sorted(evaluations)
    axes.errorbar(
        steps,
        [np.mean(evaluations[step]) for step in steps],
        [np.std(evaluations[step]) for step in steps],
        color="#d55e00",
        fmt="o",
        capsize=3,
        label=f"evaluation, mean and std of {len(evaluations[steps[-1]])} episodes" if steps else None,
    )
    random, human = published("atari")[game]["random"], published("atari")[game]["human"]
    axes.axhline(random, color="0.5", linestyle=":", label=f"random policy ({random:g})")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("raw game score")
    axes.set_title(f"{game} (human {human:g})")
    axes.legend(fontsize="small", frameon=False)
    axes.grid(alpha=0.3)
    path = folder.media / "learning_curve.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
