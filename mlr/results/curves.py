"""Curves of runs: scores and, with an auxiliary, how well it predicts. Only CSV files are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlr.results.scores import human_normalised, published
from mlr.training.loggers import CsvLog
from mlr.training.run_folder import RunFolder, read_config

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # apart for colour-blind readers too


def draw_learning_curve(folder: RunFolder, game: str) -> Path:
    """Draws training returns and evaluation scores of an Atari run over environment steps; returns the PNG's path."""
    path = folder.media / "learning_curve.png"
    metrics, evaluations = CsvLog(folder.metrics).read(), CsvLog(folder.evaluations).read()
    with _figure(path, game, _has_prediction(metrics)) as panels:
        panels[0].plot(
            *_series(metrics, "train/episode_return"), color=COLOURS[0], marker=".", label="training episodes"
        )
        _draw_evaluations(panels[0], evaluations, COLOURS[1], "evaluation")
        for panel in panels[1:]:
            _draw_prediction(panel, metrics, COLOURS[0])
    return path


def draw_comparison(runs: Sequence[Path], game: str, path: Path) -> list[str]:
    """Draws evaluation scores of several runs of `game` into the PNG `path`, one colour for each auxiliary.

    Returns a Markdown table of each run's last scores.
    """
    table = ["| run | seed | agent steps | score | episodes | human-normalised |", "|---|---|---|---|---|---|"]
    records = []
    for run in sorted(runs):
        folder, config = RunFolder(run), read_config(run)
        records.append((config, CsvLog(folder.metrics).read(), CsvLog(folder.evaluations).read()))
    names = sorted({config["aux"] for config, *_ in records})
    with _figure(path, game, any(_has_prediction(metrics) for _, metrics, _ in records)) as panels:
        for config, metrics, evaluations in records:
            colour = COLOURS[names.index(config["aux"])]
            label = {"mlr": "MLR", "none": "Baseline"}.get(config["aux"], config["aux"])
            _draw_evaluations(panels[0], evaluations, colour, f"{label}, seed {config['seed']}", line="-")
            if _has_prediction(metrics):
                _draw_prediction(panels[1], metrics, colour)
            table.append(f"| {label} | {config['seed']} | {_last_score(game, evaluations)} |")
    return table


@contextmanager
def _figure(path: Path, game: str, prediction: bool) -> Iterator[list]:
    """Panels for scores and, if wanted, for the prediction; saved to `path` at the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    heights = [3.4, 2.0] if prediction else [3.4]
    figure, axes = plt.subplots(
        len(heights),
        1,
        figsize=(6.4, sum(heights)),
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    panels = list(axes[:, 0])
    yield panels
    random, human = (published("atari")[game][player] for player in ("random", "human"))
    panels[0].axhline(random, color="0.5", linestyle=":", label=f"random policy: {random:g}")
    panels[0].set_ylabel("raw game score")
    panels[0].set_title(f"{game} (a human scores {human:g})", fontsize="medium")
    panels[0].legend(fontsize="small", framealpha=0.8, edgecolor="none")
    panels[-1].set_xlabel("environment steps")
    for panel in panels:
        panel.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_evaluations(axes, rows: list[dict], colour: str, label: str, line: str = "") -> None:
    scores: dict[int, list[float]] = {}
    for row in rows:
        scores.setdefault(int(row["env_steps"]), []).append(float(row["score"]))
    if scores:
        steps = sorted(scores)
        axes.errorbar(
            steps,
            [np.mean(scores[step]) for step in steps],
            [np.std(scores[step]) for step in steps],
            color=colour,
            marker="o",
            linestyle=line,
            capsize=3,
            label=f"{label}: mean and std of {len(scores[steps[-1]])} episodes",
        )


def _draw_prediction(axes, metrics: list[dict], colour: str) -> None:
    steps, cosine = _series(metrics, "train/mlr_cosine_hidden")
    axes.semilogy(steps, 1 - np.array(cosine), color=colour, marker=".")
    axes.set_ylabel("1 - cosine of\nprediction and target")


def _last_score(game: str, rows: list[dict]) -> str:
    """Cells of the last evaluation: agent steps, score, episodes, human-normalised."""
    if not rows:
        return "0 | not evaluated | 0 |"
    last = rows[-1]["agent_steps"]
    scores = [float(row["score"]) for row in rows if row["agent_steps"] == last]
    mean = float(np.mean(scores))
    return f"{int(last):,} | {mean:.1f} +- {np.std(scores):.1f} | {len(scores)} | {human_normalised(game, mean):.3f}"


def _has_prediction(metrics: list[dict]) -> bool:
    return any(row.get("train/mlr_cosine_hidden") for row in metrics)


def _series(rows: list[dict], key: str) -> tuple[list[int], list[float]]:
    rows = [row for row in rows if row.get(key)]
    return [int(row["env_steps"]) for row in rows], [float(row[key]) for row in rows]
