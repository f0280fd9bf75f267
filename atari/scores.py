"""Published scores of Atari games, and the scale on which games are compared."""

from functools import cache

from harness.report.published import SuiteScores, read_table


@cache
def constants() -> dict[str, tuple[float, float]]:
    """Raw scores of a random player and of a human, by game; games without both have no entry."""
    rows = read_table("atari_human_random")
    return {row["game"]: (float(row["random"]), float(row["human"])) for row in rows}


def human_normalised(game: str, score: float) -> float | None:
    """0 for a random player's raw score, 1 for a human's; None for a game without both."""
    if game not in constants():
        return None
    random, human = constants()[game]
    return (score - random) / (human - random)


def references(game: str) -> dict[str, float]:
    """Raw scores to compare with, by name."""
    return dict(zip(("random policy", "human"), constants().get(game, ()), strict=False))


def _by_game(name: str) -> dict[str, dict[str, float]]:
    rows = read_table(name)
    return {row.pop("game"): {method: float(score) for method, score in row.items()} for row in rows}


SCORES = SuiteScores(
    name="atari",
    label="Atari",
    title="Atari-100k: scores of 26 games",
    legend="Games: mean raw score, ± standard deviation over seeds. "
    "Aggregates: of human-normalised scores, where a random player has 0 and a human 1.",
    task_word="game",
    score_unit="raw game score",
    normalised_unit="human-normalised score",
    tasks=tuple(_by_game("atari100k")),
    budgets={"100k": None},
    means={"100k": _by_game("atari100k")},
    deviations={"100k": _by_game("atari100k_std")},
    aggregates={
        row.pop("metric"): {method: float(value) for method, value in row.items()}
        for row in read_table("atari100k_aggregate")
    },
    file="results/published/atari100k.csv",
    normalised=human_normalised,
    averaged=human_normalised,
    references=references,
)
