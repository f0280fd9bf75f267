import csv
import json
import shutil
import subprocess
import sys

import pytest
import yaml

from harness.config import ConfigError, as_dict
from harness.report.published import SuiteScores
from harness.report.results import Group, collect, every_suite, said_once
from harness.report.scores import Identity, read_runs, score_columns
from harness.report.words import quantity, words
from harness.run_folder import config_hash
from recipes import COMMANDS
from recipes import SUITE_SCORES as SUITES
from tests.conftest import ROOT

CONSTANT = {
    "suite": "atari", "task": "pong", "method": "mlr", "preset": "cpu", "fidelity": "released", "seed": 1,
    "config_hash": "c1", "settings_hash": "s", "total_agent_steps": 200, "version": "0.1.0+abc", "hardware": "a CPU",
    "source": "run",
}  # fmt: skip


def score_rows(scores: dict[int, list[float]], **changes) -> list[dict]:
    """Rows of a score file; scores: environment steps -> episode scores."""
    return [
        {**CONSTANT, **changes, "evaluation": index, "agent_steps": steps, "env_steps": steps, "frames": 4 * steps,
         "episode": episode, "score": score}
        for index, (steps, episodes) in enumerate(scores.items())
        for episode, score in enumerate(episodes)
    ]  # fmt: skip


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_run(path, scores=None, **changes):
    return write_rows(path, score_rows(scores or {100: [-3.0, -1.0], 200: [2.0, 5.0]}, **changes))


def test_a_score_file_says_everything_about_its_run(tmp_path):
    path = write_run(tmp_path / "any name.csv")
    (run,) = read_runs([path])
    assert (run.suite, run.task, run.method, run.preset, run.fidelity) == (
        "atari",
        "pong",
        "mlr",
        "cpu",
        "released",
    )
    assert (run.seed, run.config_hash, run.version, run.hardware) == (1, "c1", "0.1.0+abc", "a CPU")
    assert run.path == path
    assert run.evaluations == {100: ((-3.0, -1.0), 100, 400), 200: ((2.0, 5.0), 200, 800)}
    assert run.final == 3.5 and run.evaluations[100].mean == -2.0
    assert run.is_finished


def test_unordered_rows_are_the_same_run(tmp_path):
    rows = score_rows({100: [-3.0, -1.0], 200: [2.0, 5.0]})
    (run,) = read_runs([write_rows(tmp_path / "run.csv", rows[::-1])])
    assert list(run.evaluations.items()) == [(100, ((-3.0, -1.0), 100, 400)), (200, ((2.0, 5.0), 200, 800))]


def test_a_run_that_went_on_elsewhere_names_both_places(tmp_path):
    rows = score_rows({100: [1.0]}) + score_rows({200: [2.0]}, hardware="a GPU", version="0.2.0")
    (run,) = read_runs([write_rows(tmp_path / "run.csv", rows)])
    assert run.hardware == "a CPU; a GPU" and run.version == "0.1.0+abc; 0.2.0"


def test_folders_are_searched_and_other_files_ignored(tmp_path):
    write_run(tmp_path / "deep" / "down" / "a.csv")
    write_run(tmp_path / "b.csv", seed=2)
    (tmp_path / "speed.csv").write_text("host,steps_per_second\nx,3\n")
    (tmp_path / "notes.txt").write_text("mine")
    assert [run.seed for run in read_runs([tmp_path])] == [1, 2]
    assert [run.seed for run in read_runs([tmp_path, tmp_path / "b.csv"])] == [1, 2], "named twice, read once"


def test_the_published_tables_are_no_runs():
    with pytest.raises(ConfigError, match="neither a run folder nor a score file"):
        read_runs([ROOT / "results" / "published"])


def test_an_evaluation_under_way_does_not_count(tmp_path):
    rows = score_rows({100: [1.0, 2.0], 200: [3.0, 4.0]})
    (run,) = read_runs([write_rows(tmp_path / "run.csv", rows[:-1])])
    assert run.evaluations == {100: ((1.0, 2.0), 100, 400)} and not run.is_finished


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "has no rows"),
        (lambda text: text.splitlines()[0] + "\n", "has no rows"),
        (lambda text: text.replace("score", "points"), "no score file: it lacks the columns score"),
        (lambda text: text.rstrip() + ",7\n", "line 5: the row and the header differ in length"),
        (lambda text: text[: text.rindex(",")], "line 5: the row and the header differ in length"),
        (lambda text: text.replace(",2.0", ",many"), "line 4: score is 'many'"),
        (lambda text: text.replace(",2.0", ",nan"), "line 4: score is 'nan'"),
        (lambda text: text.replace(",2.0", ",inf"), "line 4: score is 'inf'"),
        (lambda text: text.replace("800,1,5.0", "800,0,5.0"), "line 5: episode 0 after 200 .* is there twice"),
        (lambda text: text.replace(",1,c1", ",one,c1"), "seed is 'one'"),
        (lambda text: text.replace("c1", "c2", 1), "holds several runs .config_hash is c2, c1."),
        (lambda text: text.replace(",c1,", ",,"), "has an empty column config_hash"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, damage, message):
    path = write_run(tmp_path / "run.csv")
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError, match=message) as error:
        read_runs([path])
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_file_of_bytes_is_refused(tmp_path):
    (tmp_path / "run.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="run.csv cannot be read"):
        read_runs([tmp_path / "run.csv"])


def test_a_path_without_runs_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="neither a run folder nor a score file"):
            read_runs([path])


def test_runs_that_would_be_mixed_are_refused_by_name(tmp_path):
    write_run(tmp_path / "a.csv")
    write_run(tmp_path / "b.csv")
    with pytest.raises(ConfigError, match="a.csv and .*b.csv are the same run, MLR, preset cpu on pong with seed 1"):
        read_runs([tmp_path])
    write_run(tmp_path / "b.csv", config_hash="c2")
    with pytest.raises(ConfigError, match="a.csv and .*b.csv are runs of different settings"):
        read_runs([tmp_path])
    write_run(tmp_path / "b.csv", config_hash="c2", seed=2, settings_hash="other")
    with pytest.raises(ConfigError, match="both MLR, preset cpu on pong but differ in their settings.*experiment=NAME"):
        read_runs([tmp_path])
    write_run(tmp_path / "b.csv", config_hash="c2", seed=2, settings_hash="other", method="ratio-0.7")
    assert [run.method for run in read_runs([tmp_path])] == ["mlr", "ratio-0.7"]


def test_rows_alone_name_the_ablation_of_a_known_method(tmp_path):
    write_run(tmp_path / "a.csv", method="mlr-no_actions-released-cpu")
    write_run(tmp_path / "b.csv", method="my-own-released-cpu")
    assert [run.group.label for run in read_runs([tmp_path])] == [
        "MLR (no actions), preset cpu",
        "my-own-released-cpu, preset cpu",
    ]


def test_changes_of_all_runs_are_said_apart_and_names_tell_equal_settings_apart(finished_run, tmp_path):
    ratio, depth, many = {"mlr.mask.ratio": (0.5, 0.3)}, {"mlr.mask.cube_depth": (8, 2)}, dict.fromkeys("abcde", (1, 2))
    beside = {"ladder": ("none", "annealing"), "variant": ("", "lean"), "loop.replay_ratio": (1.0, 2.0)}
    whole = {"precision": ("tf32", "bf16")}
    identities = [
        Identity("mlr", whole),
        Identity("mlr", whole | ratio | depth, "two"),
        Identity("mlr", whole | many, "many_changes"),
        Identity("mlr", whole | ratio, "first"),
        Identity("mlr", whole | ratio, "second"),
        Identity("none", whole, "b"),
        Identity("none", whole | beside, "my_arm"),
        Identity("none", whole | beside | many, "my_arm"),
        Identity("none", whole | beside | many, "another"),
    ]
    for i in range(len(identities)):
        shutil.copytree(
            finished_run, tmp_path / str(i), ignore=shutil.ignore_patterns("checkpoints", "weights", "media")
        )
    config = tmp_path / "8" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 1", "seed: 2"))
    (tmp_path / "8" / "evaluations.csv").unlink()
    given = iter(identities)
    labels = {
        run.path.parent.name: run.group.label for run in read_runs([tmp_path], SUITES, lambda config: next(given))
    }
    end = ", preset tiny, precision bf16"
    assert labels == {
        "0": f"MLR{end}",
        "1": f"MLR (cube depth 2, mask ratio 0.3){end}",
        "2": f"MLR (many changes){end}",
        "3": f"MLR (first, mask ratio 0.3){end}",
        "4": f"MLR (second, mask ratio 0.3){end}",
        "5": f"Baseline{end}",
        "6": f"Baseline, lean, resets and annealing (2 updates a step){end}",
        "7": f"Baseline, lean, resets and annealing (another){end}",
        "8": f"Baseline, lean, resets and annealing (another){end}",
    }


def test_groups_and_what_they_lack(tmp_path):
    write_run(tmp_path / "1.csv", task="pong")
    write_run(tmp_path / "2.csv", task="pong", seed=2)
    write_run(tmp_path / "3.csv", task="boxing")
    write_run(tmp_path / "4.csv", {100: [1.0]}, task="boxing", seed=2)  # not finished
    write_run(tmp_path / "5.csv", method="none", preset="full", fidelity="paper")
    baseline, mlr = collect(read_runs([tmp_path]), SUITES)
    assert baseline.group == Group("atari", "none", "full", "paper")
    assert [results.group.label for results in (mlr, baseline)] == ["MLR, preset cpu", "Baseline, fidelity paper"]
    assert mlr.env_steps == 200 and mlr.seeds(["boxing", "pong"]) == [1, 2]
    assert mlr.raw() == {"boxing": [3.5], "pong": [3.5, 3.5]}
    assert mlr.paired()["pong"].keys() == {1, 2}
    assert mlr.normalised()["boxing"] == [pytest.approx((3.5 - 0.1) / (12.1 - 0.1))]
    assert said_once(mlr.missing()) == [
        "MLR, preset cpu: 24 of 26 games have no result.",
        "MLR, preset cpu: boxing has 1 of 2 seeds (not 2).",
        "MLR, preset cpu: not counted, last evaluation after 100 of 200 agent steps: boxing with seed 2.",
    ]
    at_100 = {results.group.method: results for results in collect(read_runs([tmp_path]), SUITES, 100)}
    assert at_100["mlr"].raw() == {"boxing": [-2.0, 1.0], "pong": [-2.0, -2.0]}


def test_a_caveat_of_several_groups_is_said_once():
    groups = [Group("atari", method, "cpu", "released") for method in ("mlr", "none", "spr")]
    groups.append(Group("atari", "mlr", "full", "paper"))
    entries = [(group, "no result") for group in groups] + [(groups[0], "one seed"), (groups[0], "one seed")]
    assert said_once(entries) == [
        "MLR, Baseline, SPR, preset cpu; MLR, fidelity paper: no result.",
        "MLR, preset cpu: one seed.",
    ]


def test_runs_that_are_not_counted_are_one_sentence_a_reason(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / f"pong_{seed}.csv", {100: [1.0]}, seed=seed, total_agent_steps=100)
        write_run(tmp_path / f"boxing_{seed}.csv", {100: [1.0]}, seed=seed, task="boxing", total_agent_steps=100)
    write_run(tmp_path / "long.csv", {200: [1.0]}, task="alien")
    (results,) = collect(read_runs([tmp_path]), SUITES)
    sentence = "not counted, no evaluation after 200 environment steps: boxing with seed 1, 2; pong with seed 1, 2"
    assert results.missing()[-1] == (results.group, sentence)
    (nothing,) = collect(read_runs([tmp_path]), SUITES, 300)
    assert nothing.missing() == []


def test_a_run_of_another_length_is_not_mixed_in(tmp_path):
    write_run(tmp_path / "1.csv", {200: [1.0]})
    write_run(tmp_path / "2.csv", {300: [9.0]}, seed=2, settings_hash="", total_agent_steps=300)
    (results,) = collect(read_runs([tmp_path]), SUITES)
    assert results.raw() == {"pong": [9.0]}
    (*_, (group, sentence)) = results.missing()
    assert sentence == "not counted, no evaluation after 300 environment steps: pong with seed 1"


def test_any_suite_and_task_is_a_run(tmp_path):
    write_run(tmp_path / "1.csv", task="tennis")
    write_run(tmp_path / "2.csv", suite="gymnasium", task="CartPole-v1")
    runs = read_runs([tmp_path])
    assert [(run.suite, run.task) for run in runs] == [("atari", "tennis"), ("gymnasium", "CartPole-v1")]
    suites = every_suite(runs, SUITES)
    assert suites["gymnasium"] == SuiteScores("gymnasium", "Gymnasium")
    tennis, other = collect(runs, suites)
    assert tennis.raw() == {"tennis": [3.5]} and tennis.counted == tennis.normalised() == other.normalised() == {}
    assert [sentence for _, sentence in tennis.missing()] == [
        "26 of 26 games have no result",
        "tennis has no published scores, so no aggregate counts it",
    ]
    assert other.missing() == [(other.group, "CartPole-v1 has no published scores, so no aggregate counts it")]


def test_a_score_file_of_an_earlier_version_is_read(tmp_path):
    path = write_run(tmp_path / "old.csv")
    path.write_text(path.read_text().replace("suite,", "benchmark,", 1))
    (run,) = read_runs([path])
    assert (run.suite, run.task) == ("atari", "pong")
    assert [each.scores for each in run.evaluations.values()] == [(-3.0, -1.0), (2.0, 5.0)]


def test_a_score_file_that_two_versions_wrote_is_read(tmp_path):
    rows = [{"benchmark": "atari", **row, "suite": ""} for row in score_rows({100: [1.0]})]
    rows += [{"benchmark": "", **row} for row in score_rows({200: [2.0]})]
    (run,) = read_runs([write_rows(tmp_path / "run.csv", rows)])
    assert run.suite == "atari" and list(run.evaluations) == [100, 200]


def test_a_task_without_published_scores_has_a_length_of_its_own(tmp_path):
    write_run(tmp_path / "1.csv", {100: [1.0]}, total_agent_steps=100)
    write_run(tmp_path / "2.csv", {100: [3.0], 300: [4.0]}, task="tennis", total_agent_steps=300)
    write_run(tmp_path / "3.csv", {100: [5.0]}, task="tennis", seed=2, total_agent_steps=300)
    write_run(tmp_path / "4.csv", {50: [6.0]}, task="skiing", total_agent_steps=50)
    (results,) = collect(read_runs([tmp_path]), SUITES)
    assert results.env_steps == 100 and results.raw() == {"pong": [1.0], "skiing": [6.0], "tennis": [4.0]}
    assert [results.steps(task) for task in results.runs] == [100, 50, 300]
    assert [sentence for _, sentence in results.missing()[1:]] == [
        "tennis has 1 of 2 seeds (not 2)",
        "not counted, last evaluation after 100 of 300 agent steps: tennis with seed 2",
        "skiing, tennis have no published scores, so no aggregate counts them",
    ]
    (at_100,) = collect(read_runs([tmp_path]), SUITES, 100)
    assert at_100.raw() == {"pong": [1.0], "tennis": [3.0, 5.0]} and at_100.steps("tennis") == 100


def test_columns_of_a_run_folder():
    config = {
        "suite": "atari", "task": "pong", "auxiliary": "mlr", "experiment": "mlr-released-cpu", "preset": "cpu",
        "fidelity": "released", "seed": 4, "device": "auto", "agent_steps": 200,
    }  # fmt: skip
    start = {"git_commit": "0123456789", "git_dirty": True, "gpu": "a GPU", "cpu": "a CPU", "torch_threads": 3}
    manifest = {"agent_steps": 200, "version": "0.1.0", "starts": [{}, start]}
    columns = score_columns(config, manifest)
    assert columns["method"] == "mlr" and columns["task"] == "pong" and columns["seed"] == 4
    assert columns["config_hash"] == config_hash(config) and columns["total_agent_steps"] == 200
    assert columns["version"] == "0.1.0+0123456.dirty" and columns["hardware"] == "a GPU"
    other = score_columns({**config, "experiment": "ratio-0.7", "seed": 5, "device": "cpu"}, manifest)
    assert other["method"] == "ratio-0.7" and other["hardware"] == "a CPU, 3 torch threads"
    assert other["settings_hash"] == columns["settings_hash"], "it does not depend on seed, name and device"
    assert score_columns({**config, "agent_steps": 100}, manifest)["settings_hash"] != columns["settings_hash"]
    nothing = {**start, "git_commit": None, "git_dirty": False}
    older = score_columns(config, {"starts": [nothing]})
    assert (older["version"], older["total_agent_steps"]) == ("unknown", "")


def test_the_score_file_of_a_real_run_stands_alone(finished_run, tmp_path):
    (run,) = read_runs([finished_run])
    assert (run.task, run.method, run.preset, run.seed) == ("pong", "mlr", "tiny", 1)
    assert run.is_finished and run.env_steps == 120 and len(run.evaluations[120].scores) == 2
    assert run.evaluations[120].frames == 480
    assert run.config_hash == json.loads((finished_run / "manifest.json").read_text())["config_hash"]
    shutil.copy(finished_run / "evaluations.csv", tmp_path / "copy.csv")
    (copy,) = read_runs([tmp_path])
    assert {**vars(copy), "path": None} == {**vars(run), "path": None}


def test_a_run_folder_fills_in_what_its_rows_lack(finished_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "manifest.json"):
        shutil.copy(finished_run / name, folder)
    (run,) = read_runs([tmp_path])
    assert run.task == "pong" and run.evaluations == {} and not run.is_finished and run.final != run.final
    with (finished_run / "evaluations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bare = ["agent_steps", "env_steps", "frames", "episode", "score"]
    write_rows(folder / "evaluations.csv", [{name: row[name] for name in bare} for row in rows])
    (filled,), (complete,) = read_runs([folder]), read_runs([finished_run])
    assert {**vars(filled), "path": None} == {**vars(complete), "path": None}
    for written, cut in ((folder, ","), (finished_run, '"')):  # a kill while the last row, or quoted text, was written
        text = (written / "evaluations.csv").read_text()
        (folder / "evaluations.csv").write_text(text[: text.rindex(cut)])
        assert read_runs([folder])[0].evaluations == {}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["auxiliary"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="damaged config.yaml or manifest.json: it lacks 'auxiliary'"):
        read_runs([folder])


def test_the_configuration_of_a_run_folder_decides_what_its_runs_are(finished_run, tmp_path):
    """An earlier version wrote other digests into the rows; what was trained is the same."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("checkpoints", "weights", "media"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 2}))
    with (folder / "evaluations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    older = {"seed": 2, "config_hash": "older", "settings_hash": "older"}
    write_rows(folder / "evaluations.csv", [row | older for row in rows])
    first, second = read_runs([finished_run, folder])
    assert (first.seed, second.seed) == (1, 2) and first.settings_hash == second.settings_hash != "older"
    assert first.config_hash != second.config_hash != "older"


def test_float32_and_tf32_are_one_setting_on_a_cpu(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "weights", "media"))
    config, manifest = tmp_path / "run" / "config.yaml", tmp_path / "run" / "manifest.json"
    written = yaml.safe_load(config.read_text())
    assert written["precision"] == "tf32"
    config.write_text(yaml.safe_dump({**written, "precision": "fp32", "device": "auto"}))
    first, second = (read_runs([folder])[0] for folder in (finished_run, tmp_path / "run"))
    assert first.settings_hash == second.settings_hash
    start = json.loads(manifest.read_text())
    start["starts"][-1]["gpu"] = "NVIDIA H200"
    manifest.write_text(json.dumps(start))
    assert read_runs([tmp_path / "run"])[0].settings_hash != first.settings_hash


def test_a_run_of_an_earlier_version_and_one_of_equal_settings_are_in_one_column(tmp_path):
    """The older folder has other names for its keys and columns, and digests over these."""
    older = ROOT / "results" / "runs" / "cpu" / "cartpole_swingup" / "mlr-medium_seed_1"
    assert "mlr_agent:" in (older / "config.yaml").read_text()
    settings = ["task=cartpole_swingup", "preset=cpu", "precision=bf16", "experiment=mlr-medium", "seed=2"]
    config = as_dict(COMMANDS["dmcontrol"].resolve([*settings, "run_dir=elsewhere"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(older / "manifest.json", tmp_path)
    with (older / "evaluations.csv").open(newline="") as file:
        rows = [{**row, "suite": row["benchmark"], "seed": 2} for row in csv.DictReader(file)]
    write_rows(tmp_path / "evaluations.csv", rows)
    first, second = read_runs([older, tmp_path])
    assert first.group == second.group and (first.seed, second.seed) == (1, 2)
    assert first.settings_hash == second.settings_hash and first.is_finished and second.is_finished
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "precision": "tf32"}))
    with pytest.raises(ConfigError, match="differ in their settings"):
        read_runs([older, tmp_path])


def test_reading_scores_needs_nothing_heavy():
    heavy = ("torch", "pandas", "rliable", "arch", "scipy", "matplotlib")
    code = (
        "import sys, harness.report.scores, harness.report.tables; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_change_in_words():
    changes = {"loop.replay_ratio": 1.0, "resets.every": 4000, "ladder": "sr_spr", "variant": "very_lean"}
    expected = ["1 update a step", "resets every 4,000 steps", "SR-SPR", "very lean"]
    assert [words(*change) for change in changes.items()] == expected
    assert quantity("resets.every") == "resets every N steps"
