"""The picture of a single run: training and evaluation and, with an auxiliary, how well it predicts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.logs import CsvLog
from harness.report.published import SuiteScores
from harness.report.scores import read_run
from harness.run_folder import RunFolder

STEPS, SCORE = "environment steps", "score"
EVENT = "event/"  # columns of metrics.csv with a value at the steps of an event
WIDTH = 6.4  # inches: room for the legend of a task with a long name


def draw_run(
    folder: RunFolder,
    references: Mapping[str, float],
    agreement: Sequence[str] | None = None,
    scores: SuiteScores | None = None,
) -> Path:
    """Draws a run's learning curve into its folder; returns the PNG's path.

    references: scores to compare with, by name. agreement: column under train/aux/ that nears 1 as the auxiliary
    learns, and a label of its distance from 1. scores: of the run's suite, whose measure and published curves are
    shown; single episodes are left out where the measure is no score. Raises ConfigError for damaged rows.
    """
    from harness.report import figures  # imports matplotlib

    run, metrics = read_run(folder.evaluations, {scores.name: scores} if scores else {}), CsvLog(folder.metrics).read()
    measure, behind = (scores.measure, scores.curves(run.task)) if scores else (SCORE, {})
    points = {}
    if measure == SCORE:
        episodes = [(steps, score) for steps, each in run.evaluations.items() for score in each.scores]
        points = {"training episodes": _series(metrics, "train/episode_return"), "evaluation episodes": episodes}
    panel = None
    if agreement and (values := _series(metrics, f"train/aux/{agreement[0]}")):
        panel = agreement[1], [(steps, 1 - value) for steps, value in values]
    names = [key for key in metrics[0] if key.startswith(EVENT)] if metrics else []
    marks = {key.removeprefix(EVENT): [steps for steps, _ in _series(metrics, key)] for key in names}
    label = f"{run.task}, {run.group.label}, seed {run.seed}"
    style = figures.styles([label])
    axes, shown = (STEPS, measure), {label: [run]}
    beside = {"behind": behind, "marks": marks, "limits": scores.limits if scores else None, "width": WIDTH}
    png, *_ = figures.draw_learning_curve(
        folder.media, "learning_curve", shown, style, axes, references, points, panel, **beside
    )
    return png


def _series(rows: list[dict], key: str) -> list[tuple[int, float]]:
    return [(int(row["env_steps"]), float(row[key])) for row in rows if row.get(key)]
