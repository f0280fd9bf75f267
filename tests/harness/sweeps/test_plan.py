"""Grids on a small suite of its own: the runs they become, their names, and what is refused."""

import textwrap
from dataclasses import dataclass
from itertools import product

import pytest

from harness import command as composition
from harness.config import ConfigError, require
from harness.sweeps.grid import Group, make_grid
from harness.sweeps.plan import Double, in_order, plan_runs


@dataclass
class Evaluation:
    episodes: int


@dataclass
class Stove:
    flame: float
    heat: float
    pans: list[int]


@dataclass
class Oven:
    heat: float
    fan: bool


@dataclass
class Meal:
    suite: str
    task: str
    dish: str
    cook: str
    preset: str
    fidelity: str
    seed: int
    experiment: str
    run_dir: str
    agent_steps: int
    salt: float
    stove: Stove
    oven: Oven
    evaluation: Evaluation


FILES = {
    "meal.yaml": """
        defaults:
          - meal_schema
          - _self_
          - cook: anna
        suite: meal
        task: ${dish}
        preset: full
        fidelity: released
        dish: ???
        seed: 1
        experiment: ${cook}-${fidelity}-${preset}
        run_dir: runs/meal/${dish}/${experiment}/seed_${seed}
        agent_steps: 10
        salt: ${oc.select:salt_of.${dish},1.0}
        stove: {flame: 2.0, heat: 2.0, pans: [3, 1]}
        oven: {heat: 180.0, fan: true}
        evaluation: {episodes: 2}
    """,
    "meal/plate/blue.yaml": "# @package _global_\n",
    "cook/anna.yaml": "# @package _global_\ncook: anna\n",
    "cook/ben.yaml": "# @package _global_\ncook: ben\noven: {fan: false}\n",
    "ablation/salt_2.yaml": "# @package _global_\nexperiment: ${cook}-salt_2-${fidelity}-${preset}\nsalt: 2.0\n",
    "ablation/salt_3.yaml": "# @package _global_\nexperiment: ${cook}-salt_3-${fidelity}-${preset}\nsalt: 3.0\n",
    "ablation/feast.yaml": """
        # @package _global_
        experiment: ${cook}-feast-${fidelity}-${preset}
        salt: 2.0
        oven: {fan: false}
    """,
}


def validate(config: Meal) -> None:
    require(config.salt >= 0, f"salt={config.salt} must be at least 0")
    require(config.salt < 5 or config.stove.flame > 2, "stove.flame must be above 2 with so much salt")


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    monkeypatch.setattr(composition, "CONFIGS", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)


COMMAND = composition.Command("meal", Meal, validate)


def plan(*settings, tasks=("soup",), seeds=(1,), ablations=(), group=None):
    return plan_runs(COMMAND, [[f"dish={task}"] for task in tasks], make_grid(settings, ablations, group), seeds)


def experiments(*settings, **options) -> list[str]:
    return [run.arm for run in plan(*settings, **options).runs]


def test_all_combinations_run_each_where_its_own_command_puts_it():
    runs = plan("stove.flame=1,3", "cook=anna,ben", "preset=tiny", seeds=(4, 7)).runs
    for run in runs:
        assert run.name == f"meal/{run.task}/{run.arm}/seed_{run.seed}" == run.run_dir.removeprefix("runs/")
        assert (run.suite, run.agent_steps, run.episodes) == ("meal", 10, 2)
        assert run.arguments[0].endswith("commands/train_meal.py")
    assert [run.seed for run in runs] == [4, 7] * 4
    found = []
    for run in runs[1::2]:
        config = COMMAND.resolve(run.overrides)
        found.append((config.stove.flame, config.cook))
        assert (config.task, config.seed, config.run_dir) == (run.task, 7, run.run_dir)
        assert config.experiment == run.arm == f"{config.cook}-flame_{config.stove.flame:g}-released-tiny"
    assert found == list(product((1.0, 3.0), ("anna", "ben")))


@pytest.mark.parametrize(
    "settings, named",
    [
        # settings with one value are in no name, as with the training script
        (["salt=3"], ["anna-released-full"]),
        (["stove.pans=[1,2]"], ["anna-released-full"]),
        # the default's value is named as the others are
        (["salt=1,3"], ["anna-salt_1-released-full", "anna-salt_3-released-full"]),
        (["stove.pans=[1,2],[5]"], ["anna-pans_1_2-released-full", "anna-pans_5-released-full"]),
        # two keys end in heat
        (["oven.heat=90,1e-5"], ["anna-oven.heat_90-released-full", "anna-oven.heat_1e-05-released-full"]),
        (["oven.fan=true,false"], ["anna-fan_true-released-full", "anna-fan_false-released-full"]),
        (["oven={heat:90},{fan:false}"], ["anna-oven_heat_90-released-full", "anna-oven_fan_False-released-full"]),
        (["salt=range(1,3)"], ["anna-salt_1-released-full", "anna-salt_2-released-full"]),
        # what the name holds already
        (["cook=ben,anna"], ["ben-released-full", "anna-released-full"]),
        (["fidelity=released,paper"], ["anna-released-full", "anna-paper-full"]),
        (["salt=2,3", "experiment='${salt} spoons'"], ["2.0 spoons", "3.0 spoons"]),
        # a name of one's own gets what is chosen
        (["salt=2,3", "experiment=mine"], ["mine-salt_2", "mine-salt_3"]),
        (["salt=2,3", "experiment=${seed}"], ["1-salt_2", "1-salt_3"]),
    ],
)
def test_names_hold_the_keys_with_several_values(settings, named):
    made = plan(*settings)
    assert [run.arm for run in made.runs] == named
    assert [COMMAND.resolve(run.overrides).experiment for run in made.runs] == named


def test_ablations_are_choices_beside_others_and_none_of_them_is_base():
    assert experiments(ablations=("base", "salt_2")) == ["anna-released-full", "anna-salt_2-released-full"]
    assert experiments("oven.heat=90,95", ablations=("salt_2",), seeds=(1, 2)) == [
        "anna-salt_2-oven.heat_90-released-full",
        "anna-salt_2-oven.heat_90-released-full",
        "anna-salt_2-oven.heat_95-released-full",
        "anna-salt_2-oven.heat_95-released-full",
    ]
    assert experiments("experiment=mine", ablations=("base", "salt_2")) == ["mine", "mine-salt_2"]


def test_equal_configurations_run_once():
    made = plan("salt=2,2.0,1", seeds=(1, 2), ablations=("base", "salt_3"))
    assert [run.arm for run in made.runs] == [arm for arm in ("anna-salt_2-released-full", "anna-salt_1-released-full")
                                              for _ in (1, 2)]  # fmt: skip
    assert made.doubles == [
        Double("meal/soup", ["salt=2.0"], "anna-salt_2-released-full"),
        Double("meal/soup", ["+ablation=salt_3", "salt=2"], "anna-salt_2-released-full"),
        Double("meal/soup", ["+ablation=salt_3", "salt=2.0"], "anna-salt_2-released-full"),
        Double("meal/soup", ["+ablation=salt_3", "salt=1"], "anna-salt_1-released-full"),
    ]


def test_what_a_run_changes_is_told_against_the_configuration_without_the_grid():
    made = plan("cook=anna,ben", "salt=1,2", "stove.flame=3")
    assert [run.changed for run in made.runs] == [
        {},
        {"salt": [1.0, 2.0]},
        {"cook": ["anna", "ben"], "oven.fan": [True, False]},
        {"cook": ["anna", "ben"], "salt": [1.0, 2.0], "oven.fan": [True, False]},
    ]
    # a base that cannot run is replaced by the first combination
    made = plan("salt=6", "stove.flame=3,4")
    assert [run.changed for run in made.runs] == [{}, {"stove.flame": [3.0, 4.0]}]


def test_arms_of_a_group_change_one_key_of_its_base():
    group = Group(["salt_2", "salt=4", "salt=1"])
    made = plan("preset=tiny", group=group, tasks=("soup", "stew"), seeds=(3, 5))
    names = ["anna-released-tiny", "anna-salt_2-released-tiny", "anna-salt_4-released-tiny"]
    assert [run.arm for run in made.runs] == [name for _ in ("soup", "stew") for name in names for _ in (3, 5)]
    assert [run.changed for run in made.runs][::2] == [{}, {"salt": [1.0, 2.0]}, {"salt": [1.0, 4.0]}] * 2
    assert [run.seed for run in made.runs] == [3, 5] * 6
    assert made.doubles == [Double(f"meal/{dish}", ["salt=1"], names[0]) for dish in ("soup", "stew")]


def test_a_group_may_stand_on_an_ablation():
    made = plan(group=Group(["oven.fan=false", "salt_3"], base="salt_2"))
    assert [run.arm for run in made.runs] == [
        "anna-salt_2-released-full",
        "anna-salt_2-fan_false-released-full",
        "anna-salt_3-released-full",
    ]
    assert [run.changed for run in made.runs] == [{}, {"oven.fan": [True, False]}, {"salt": [2.0, 3.0]}]


def test_a_group_is_compared_at_each_combination_of_the_rest():
    made = plan("stove.flame=3,4", group=Group(["salt_2"]))
    assert [run.arm for run in made.runs] == [
        "anna-flame_3-released-full",
        "anna-salt_2-flame_3-released-full",
        "anna-flame_4-released-full",
        "anna-salt_2-flame_4-released-full",
    ]
    assert made.runs[3].changed == {"stove.flame": [2.0, 4.0], "salt": [1.0, 2.0]}


def test_an_arm_that_changes_several_keys_is_refused_unless_the_group_allows_it():
    message = r"\+ablation=feast changes 2 keys on soup \(salt, oven.fan\): an arm may change one"
    with pytest.raises(ConfigError, match=message):
        plan(group=Group(["feast"]))
    assert len(plan(group=Group(["feast"], together=["salt", "oven.fan"])).runs) == 2


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"settings": ["salt=1,-1"]}, "salt=-1.0 must be at least 0"),
        ({"settings": ["slat=1,2"]}, "did you mean salt"),
        ({"settings": ["cook=anna,bem"]}, "did you mean ben"),
        ({"settings": ["salt=interval(1,2)"]}, r"salt=interval\(1,2\): write the values with commas between"),
        ({"settings": ["cook=glob(*)"]}, "write the values with commas between"),
        ({"settings": ["salt=range(1,1)"]}, "must have 1 to 1,000 values"),
        ({"settings": ["salt=range(1,1000000000)"]}, "must have 1 to 1,000 values"),
        ({"settings": ["hydra.run.dir=a,b"]}, "concerns Hydra itself"),
        ({"settings": ["hydra.run.dir=a"]}, "concerns Hydra itself"),
        ({"settings": ["salt"]}, "write key=value"),
        ({"ablations": ["salt_4"]}, "did you mean"),
        ({"group": Group(["salt_4"])}, "did you mean"),
        ({"group": Group(["salt_2"]), "settings": ["salt=4"]}, "no arm changes anything"),
    ],
)
def test_what_cannot_run_is_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        plan(*settings.pop("settings", ()), **settings)
    assert "\n" not in str(error.value)


def test_runs_that_share_a_folder_are_refused():
    with pytest.raises(ConfigError, match="share run_dir=here"):
        in_order([plan("run_dir=here", seeds=(1, 2))])


def test_first_seeds_come_first():
    plans = [plan("salt=1,2", tasks=(dish,), seeds=(2, 1)) for dish in ("soup", "stew")]
    assert [(run.seed, run.task) for run in in_order(plans).runs] == [
        (seed, dish) for seed in (1, 2) for dish in ("soup", "stew") for _ in (1, 2)
    ]


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    folder = tmp_path / "runs/meal/soup/anna-salt_2-released-full/seed_1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("dish: soup\n")
    with pytest.raises(ConfigError, match="holds another configuration"):
        plan("salt=1,2")
