import pytest

from harness.report.published import label_of, main_methods, published_methods, references
from recipes import SUITE_SCORES as SUITES


def test_every_published_score_has_a_method_with_a_source_and_the_other_way_round():
    methods = {(method.suite, method.method): method for method in published_methods() if method.source}
    scored = {
        (suite.name, name)
        for suite in SUITES.values()
        for tasks in suite.means.values()
        for row in tasks.values()
        for name in row
    }
    assert methods.keys() == scored
    seeds = {name: method.seeds for (suite, name), method in methods.items() if suite == "atari"}
    assert seeds["mlr"] == seeds["baseline"] == "3" and seeds["spr"] == "100" and seeds["playvirtual"] == "15"


def test_the_reference_comes_first_and_names_come_from_the_table():
    assert main_methods() == ("mlr", "mwm", "none", "pixels")
    assert [label_of(name) for name in ("mlr", "none", "ratio-0.7")] == ["MLR", "Baseline", "ratio-0.7"]
    assert references("metaworld") == (("pixels", ()), ("mwm", ("pixels",))) and references("gymnasium") == ()


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_the_published_tables_of_a_suite_fit_together(suite):
    assert suite.means.keys() == suite.deviations.keys() == suite.budgets.keys()
    for tasks in suite.means.values():
        assert tuple(tasks) == suite.tasks
    for task in suite.tasks:
        assert isinstance(suite.normalised(task, 1.0), float) and isinstance(suite.averaged(task, 1.0), float)
