import pytest

from dmcontrol.scores import SCORES
from dmcontrol.tasks import TASKS, UNBOUNDED, require_domain, require_task
from harness.config import ConfigError


@pytest.mark.gl
def test_tasks_are_those_of_the_suite_that_have_bounds_and_a_time_limit():
    from dm_control import suite

    assert suite.TASKS_BY_DOMAIN == TASKS | dict.fromkeys(UNBOUNDED, ("lqr_2_1", "lqr_6_2"))
    lqr = suite.load("lqr", "lqr_2_1")
    assert lqr.action_spec().maximum == 1e10 and lqr._step_limit == float("inf")


def test_published_tasks_are_known():
    names = {f"{domain}_{task_name}" for domain in TASKS for task_name in TASKS[domain]}
    assert set(SCORES.tasks) <= names


@pytest.mark.parametrize(
    ("domain", "task_name", "message"),
    [
        ("cartpol", "swingup", r"^no domain named 'cartpol'; did you mean cartpole\?$"),
        ("Cheetah", "run", r"^no domain named 'Cheetah'; did you mean cheetah\?$"),
        ("humanoid_cmu", "run", r"^no domain named 'humanoid_cmu'; did you mean humanoid_CMU\?$"),
        ("lqr", "lqr_2_1", "^lqr has no bounds on its actions and no time limit: choose another, such as cartpole$"),
        ("cartpole", "swingupp", r"^cartpole has no task named 'swingupp'; did you mean swingup\?$"),
        ("reacher", "zzz", "^reacher has no task named 'zzz'; choose one of easy, hard$"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one_or_the_list(domain, task_name, message):
    with pytest.raises(ConfigError, match=message):
        require_task(domain, task_name)


def test_known_names_pass():
    for domain, task_names in TASKS.items():
        require_domain(domain)
        for task_name in task_names:
            require_task(domain, task_name)
