"""Published success of Meta-world tasks: tables and learning curves of MWM and DreamerV2 by environment steps."""

from functools import cache
from statistics import mean

from harness.report.published import Curve, SuiteScores, published_methods, read_table
from mwm.tasks import METAWORLD_TASKS

AVERAGED = 5  # evaluations, the last ones, that a published result is the mean of
AT_THE_END = ""


@cache
def _curves() -> dict[str, dict[str, Curve]]:
    """Published curves by task and method."""
    points: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for row in read_table("mwm_metaworld"):
        task = row["task"].removeprefix("metaworld_")
        point = int(row["env_frames"]), float(row["success_mean"]), float(row["success_std"])
        points.setdefault(task, {}).setdefault(row["method"], []).append(point)
    return {
        task: {method: Curve(*zip(*sorted(curve), strict=True)) for method, curve in by_method.items()}
        for task, by_method in points.items()
    }


def curves(task: str) -> dict[str, Curve]:
    """Published curves of a task by label; none for a task without."""
    labels = {method.method: method.label for method in published_methods() if method.suite == SCORES.name}
    return {f"{labels[method]}, published": curve for method, curve in _curves().get(task, {}).items()}


def _success(task: str, score: float) -> float:
    return score


def _results() -> dict[str, dict[str, float]]:
    return {
        task: {method: mean(curve.means[-AVERAGED:]) for method, curve in _curves()[task].items()}
        for task in METAWORLD_TASKS
    }


SCORES = SuiteScores(
    name="metaworld",
    label="Meta-world",
    title="Meta-world: success on 50 tasks",
    legend="Tasks: success, the mean of the last five evaluations, ± standard deviation over seeds. Published runs end "
    "after 0.5 to 3 million environment steps and are on Meta-world v2; ours are on v3, whose physics are others.",
    score_unit="success",
    normalised_unit="success",
    measure="success",
    limits=(0.0, 1.0),
    averaged_evaluations=AVERAGED,
    tasks=METAWORLD_TASKS,
    means={AT_THE_END: _results()},
    deviations={AT_THE_END: {task: {} for task in METAWORLD_TASKS}},
    file="results/published/mwm_metaworld.csv",
    score_digits=2,
    normalised=_success,
    averaged=_success,
    curves=curves,
)
