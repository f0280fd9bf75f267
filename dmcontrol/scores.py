"""Published scores of DMControl tasks, and the scale on which tasks are compared."""

from harness.report.published import ByBudget, SuiteScores, read_table

BUDGETS = {"100k": 100_000, "500k": 500_000}  # environment steps of the published scores
MAXIMUM = 1000.0  # the largest return of an episode
# Tasks whose returns stay within STEADY_BOUND on another physics build or kind of CPU, as measured in docs/protocol.md.
STEADY = ("ball_in_cup_catch", "cartpole_swingup", "cheetah_run", "finger_spin", "reacher_easy")
STEADY_BOUND = 1e-3


def score_bound(task: str) -> float:
    """Largest difference of a return elsewhere. Where bodies fall, rounding decides, and no return says much."""
    return STEADY_BOUND if task in STEADY else MAXIMUM


def normalised(task: str, score: float) -> float:
    """Share of the largest return."""
    return score / MAXIMUM


def _raw(task: str, score: float) -> float:
    return score


def _table(column: str) -> ByBudget:
    table: dict[str, dict[str, dict[str, float]]] = {budget: {} for budget in BUDGETS}
    for row in read_table("dmcontrol"):
        scores = table[row["budget"]].setdefault(f"{row['domain']}_{row['task']}", {})
        if row[column]:
            scores[row["method"]] = float(row[column])
    return table


SCORES = SuiteScores(
    name="dmcontrol",
    label="DMControl",
    title="DMControl: returns of six tasks",
    legend="Tasks: mean return of an episode, ± standard deviation over seeds; 1000 is the most.",
    normalised_unit="return / 1000",
    tasks=tuple(_table("mean")["100k"]),
    budgets=BUDGETS,
    means=_table("mean"),
    deviations=_table("std"),
    file="results/published/dmcontrol.csv",
    score_digits=0,
    mean_digits=1,
    normalised=normalised,
    averaged=_raw,
)
