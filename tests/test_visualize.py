"""The pictures of clips and masks: what is drawn, and the files of the script."""

import re
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from atari.training import ATARI
from harness.config import ConfigError
from scripts import visualize
from studies.clips import Clips, liveliest, make_clip, make_strategies, measure_agreement, play_clips
from tests.conftest import make_config

PNG_WIDTH = 1820


class Counter(gymnasium.Env):
    """Shows how many steps it has made, 100 more in each further episode."""

    def __init__(self, length):
        self.length, self.start = length, -100

    def reset(self):
        self.start, self.steps = self.start + 100, 0
        return np.full((1, 2, 2), self.start), {}

    def step(self, action):
        self.steps += 1
        return np.full((1, 2, 2), self.start + self.steps), self.steps / 2, self.steps == self.length, False, {}


def play_counter(length):
    return play_clips(Counter(length), lambda observation: int(observation[0, 0, 0]) * 2, seq_len=3, count=3, skip=1)


def test_a_clip_stays_within_an_episode():
    clips = play_counter(length=7)
    assert clips.frames[:, :, 0, 0, 0].T.tolist() == [[1, 2, 3], [4, 5, 6], [100, 101, 102]]
    assert torch.equal(clips.actions, 2 * clips.frames[:, :, 0, 0, 0])
    assert clips.rewards.T.tolist() == [[1.0, 1.5, 2.0], [2.5, 3.0, 3.5], [0.5, 1.0, 1.5]]
    with pytest.raises(ConfigError, match="too short"):
        play_counter(length=2)


def test_the_liveliest_clip_moves_all_the_time():
    frames = torch.zeros(6, 3, 2, 4, 4, dtype=torch.uint8)
    frames[3, 0] = 255  # a flash
    frames[::2, 1] = 40
    assert liveliest(Clips(frames, torch.zeros(6, 3), torch.zeros(6, 3))) == 1


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("none"))


@pytest.fixture
def make_objective(config):
    """A function that makes an objective with fresh generators, the same each time."""
    environment = ATARI.make_environment(config, 1, 0, False)
    return lambda: ATARI.make_agent(config, environment, torch.device("cpu")).auxiliary


@pytest.fixture(scope="module")
def played(config):
    environment = ATARI.make_environment(config, 1, 0, False)
    environment.action_space.seed(1)
    return play_clips(environment, lambda observation: environment.action_space.sample(), 4, count=3, skip=20)


def drawn(pixels):
    """The newest frames of [K, 1, C, H, W], as a slow reference rounds them."""
    return np.clip(np.rint(pixels[:, 0, -1:].double().numpy()), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("index", range(3))
def test_the_masked_row_is_the_frame_or_0(make_objective, played, index):
    clip = make_strategies(make_objective(), played.frames[:, 0], channels=1, seed=3)[index]
    assert clip.config.strategy == ("cube", "spatial", "temporal")[index]
    assert np.array_equal(clip.frames[..., 0], played.frames[:, 0, -1].numpy())
    hidden = np.kron(clip.mask, np.ones((12, 12), dtype=bool))[..., None]
    assert 0 < hidden.mean() < 1
    assert np.array_equal(clip.masked, np.where(hidden, 0, clip.frames))
    assert np.allclose(clip.hidden, hidden.mean(axis=(1, 2, 3)))


def test_the_views_are_the_objectives_own(config, make_objective, played):
    frames = played.frames[:, 1]
    objective = make_objective()
    clip = make_clip(objective, frames, objective.mask(), config.mlr.mask, channels=1, title="")
    again = make_objective()
    hidden = again.mask().numpy()[0]
    assert np.array_equal(clip.mask, hidden)
    left = frames.numpy() * ~np.kron(hidden, np.ones((12, 12), dtype=bool))[:, None]
    assert np.array_equal(clip.masked_view, drawn(again.augment_masked(torch.from_numpy(left).unsqueeze(1))))
    assert np.array_equal(clip.target_view, drawn(again.augment_target(frames.unsqueeze(1))))
    assert not np.array_equal(clip.target_view, clip.frames)


@torch.no_grad()
def test_agreement_is_the_cosine_of_prediction_and_target(config, make_objective, played):
    objective = make_objective()
    mask = objective.mask()
    agreement = measure_agreement(objective, played, mask)
    again = make_objective()
    again.mask()
    for frames, measured in ((played.frames, agreement.own), (played.frames[:, [2, 0, 1]], agreement.other)):
        hidden = torch.from_numpy(np.kron(mask[0], np.ones((12, 12), dtype=bool)))[:, None, None]
        pixels = again.augment_masked(played.frames * ~hidden) * config.mlr.masked_scale
        latents = torch.stack([again.encoder(step) for step in pixels], dim=1)  # [B, T, D]
        actions = again.owned["action_embedding"](played.actions.transpose(0, 1))
        prediction = again.owned["predictor"](again.projector(again.owned["decoder"](latents, actions)))
        target = torch.stack([again.targets["encoder"](step) for step in again.augment_target(frames)], dim=1)
        cosine = F.cosine_similarity(prediction, again.targets["projector"](target), dim=-1).T
        assert np.allclose(measured, cosine.numpy(), atol=1e-5)
    assert not np.allclose(agreement.own, agreement.other, atol=1e-4)


def check_files(out, task, steps):
    with Image.open(out / f"{task}_clip.png") as picture:
        assert picture.width == PNG_WIDTH and picture.height > 900
        assert len(np.unique(picture.convert("L"))) > 20
    with Image.open(out / f"{task}_clip.gif") as film:
        assert (film.n_frames, film.size) == (steps, (812, 332))
        shown = []
        for step in range(steps):
            film.seek(step)
            shown.append(np.asarray(film.convert("L")))
        assert all((before != after).any() for before, after in zip(shown, shown[1:], strict=False))
    with Image.open(out / f"{task}_strategies.png") as picture:
        picture.load()
    assert len(list(out.iterdir())) == 3
    assert all(path.stat().st_size < 400_000 for path in out.iterdir())


def test_a_game(tmp_path, capsys):
    out = tmp_path / "new" / "pictures"
    settings = ["game=pong", "preset=tiny", "mlr.mask.strategy=spatial", "mlr.mask.ratio=0.3"]
    assert visualize.main([*settings, "--out", str(out), "--seed", "3"]) == 0
    check_files(out, "pong", steps=4)
    printed = capsys.readouterr().out.splitlines()
    assert {str(path) for path in out.iterdir()} <= set(printed)


@pytest.mark.gl
def test_a_task(tmp_path):
    assert visualize.main(["task=cartpole_swingup", "preset=tiny", "--out", str(tmp_path)]) == 0
    check_files(tmp_path, "cartpole_swingup", steps=4)


def test_a_run(finished_run, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    assert visualize.main(["--run", str(finished_run), "--out", str(tmp_path)]) == 0
    check_files(tmp_path, "pong", steps=4)
    output = capsys.readouterr().out
    assert "after 120 steps" in output
    own, hidden, visible, other, difference = map(float, re.findall(r"(-?\d\.\d{4}|nan)", output))
    assert all(-1 <= cosine <= 1.0001 for cosine in (own, hidden, visible, other))
    assert abs(own - other - difference) < 2e-4
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([], "say what to show"),
        (["game=pong", "task=walker_walk"], "say what to show"),
        (["game=pomg"], "pong"),
        (["task=cartpole_swngup"], "cartpole_swingup"),
        (["game=pong", "mlr.mask.ratoi=0.3"], "mlr.mask.ratio"),
        (["game=pong,alien"], "several values"),
        (["game=pong", "aux=none"], "aux=mlr"),
        (["game=pong", "mlr.mask.strategy=none"], "hides nothing"),
        (["game=pong", "--seed", "x"], "--seed"),
        (["--run", "nowhere"], "no run folder"),
        (["--run", ".", "game=pong"], "leave out game=pong"),
        (["game=pong", "--out", "file/pictures"], "is a file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert visualize.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and line in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_without_a_whole_checkpoint_is_refused(finished_run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    for path in copy.glob("checkpoints/0*/state.safetensors"):
        path.write_bytes(b"broken")
    assert visualize.main(["--run", str(copy), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no checkpoint that can be shown" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
