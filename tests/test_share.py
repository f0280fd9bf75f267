"""mlr share: packed agents play as their runs do, say so in their cards, and reach the Hub."""

import sys

import numpy as np
import pytest

from commands import share, verify
from harness.errors import NotFinite
from harness.exit_codes import FAILED
from harness.logs import CsvLog
from harness.run_folder import RunFolder
from recipes import load_agent
from studies import visualize
from tests.conftest import ROOT
from tests.hub import TOKEN, local_hub

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def packed(finished_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "agent"
    arguments = ["--out", str(out), "--episodes", "3", "--note", "Too small to learn."]
    assert share.main([str(finished_run), *arguments]) == 0
    return out


def test_a_packed_agent_plays_its_scores_again_and_its_card_says_which(packed, finished_run, tmp_path):
    last = [row for row in CsvLog(finished_run / "evaluations.csv").read() if row["agent_steps"] == "120"]
    then, rows = [float(row["score"]) for row in last], CsvLog(packed / "scores.csv").read()
    now = [float(row["score"]) for row in rows]
    assert len(then) == 2 and len(now) == 3 and now[:2] == then
    card = hub.ModelCard.load(packed / "README.md")
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_value) == ("pong", f"{np.mean(now):.1f} +/- {np.std(now):.1f}")
    assert "2 of the 2 scores" in card.text and "- Too small to learn." in card.text
    assert verify.main([str(packed), str(packed / "scores.csv"), "--processes", "1"]) == 0
    (packed / "weights" / "000000120.safetensors").rename(moved := tmp_path / "alone.safetensors")
    observations = np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), np.uint8)
    agents = [load_agent(source) for source in (finished_run, moved)]
    np.testing.assert_array_equal(*(agent.act(observations) for agent in agents))
    moved.rename(packed / "weights" / "000000120.safetensors")


def test_a_packed_agent_shows_the_predictions_of_its_run(packed, finished_run, tmp_path, capsys):
    shown = []
    for folder in (finished_run, packed):
        assert visualize.main(["--run", str(folder), "--out", str(tmp_path)]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "cosine" in shown[0]
    (packed / "auxiliary.safetensors").rename(moved := tmp_path / "auxiliary.safetensors")
    assert visualize.main(["--run", str(packed)]) == 2
    moved.rename(packed / "auxiliary.safetensors")


def test_the_hub_gets_every_file(packed, monkeypatch, capsys):
    with local_hub() as there:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", there.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert share.main([str(packed), "--push", "user/agent"]) == 0
        sent = {str(file.relative_to(packed)): file.read_bytes() for file in packed.rglob("*") if file.is_file()}
        assert there.files == sent
        assert {"README.md", "config.yaml", "replay.mp4", "weights/000000120.safetensors"} <= sent.keys()
        monkeypatch.setenv("HF_TOKEN", "of somebody else")
        assert share.main([str(packed), "--push", "user/agent"]) == 2
    assert "the Hub did not take user/agent" in capsys.readouterr().err


def test_what_cannot_be_packed_or_pushed_is_refused_in_a_line(packed, finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    cases = {
        "add --out": [finished_run],
        "is not empty": [finished_run, "--out", packed],
        "no weights of agent step 7": [finished_run, "--out", tmp_path / "new", "--agent-steps", "7"],
        "hf auth login": [packed, "--push", "user/agent"],
        "write USER/NAME": [packed, "--push", "agent"],
        "add --push": [packed],
        "is no run folder": [tmp_path, "--out", tmp_path / "new"],
    }
    for expected, arguments in cases.items():
        assert share.main([str(argument) for argument in arguments]) == 2
        line = capsys.readouterr().err
        assert expected in line and line.count("\n") == 1
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert share.main([str(finished_run), "--out", str(tmp_path / "new")]) == 2
    assert "[share]" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_a_pack_that_fails_leaves_nothing_in_its_way(finished_run, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **settings):
        raise NotFinite("a score is a NaN")

    monkeypatch.setattr("harness.run_evaluation.evaluate_run", fail)
    assert share.main([str(finished_run), "--out", str(tmp_path / "agent")]) == FAILED
    assert capsys.readouterr().err == "error: a score is a NaN\n" and not any(tmp_path.iterdir())


@pytest.mark.parametrize("card", sorted(ROOT.glob("results/agents/*/README.md")), ids=lambda path: path.parent.name)
def test_a_shipped_agent_acts_and_its_card_has_the_mean_of_its_scores(card):
    rows, trained = (CsvLog(card.parent / name).read() for name in ("scores.csv", "evaluations.csv"))
    assert [row["evaluation"] for row in rows] == [trained[-1]["evaluation"]] * len(rows)
    scores = [float(row["score"]) for row in rows]
    (result,) = hub.ModelCard.load(card).data.eval_results
    assert result.metric_value == f"{np.mean(scores):.1f} +/- {np.std(scores):.1f}"
    agent = load_agent(RunFolder(card.parent).saved_weights())
    assert agent.encoder is not None
