import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mwm.agent import MWMAgent
from mwm.figures import OBSERVED, Model, Played, draw_world_model, masking_note
from mwm.pictures import reconstruct
from tests.conftest import composed

WINDOW = 12


@pytest.fixture
def config(tmp_path):
    return composed("mwm", tmp_path, "env=tests.own_environments:PulledSeenDot")


def make_agent(config, **changes):
    return MWMAgent(
        replace(config.mwm, **changes),
        image_size=32,
        action_size=2,
        random_steps=0,
        seed=3,
        precision="fp32",
        device=torch.device("cpu"),
    )


def model(agent):
    return Model(agent.section, agent.acting, "a task")


def episode(length=30):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (length, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Played(pictures, torch.rand(length, 2, generator=generator) * 2 - 1)


def test_an_episode_becomes_two_grids_and_a_curve(config, tmp_path):
    paths = draw_world_model(model(make_agent(config)), episode(), WINDOW, tmp_path / "new" / "x", seed=1)
    names = ["x_masking.png", "x_prediction.png", "x_open_loop.png", "x_open_loop.csv"]
    assert [path.name for path in paths] == names
    assert {path.name for path in paths[0].parent.iterdir()} == set(names)
    for path in paths[:3]:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    again = draw_world_model(model(make_agent(config)), episode(), WINDOW, tmp_path / "again" / "x", seed=1)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_guesses_are_as_wrong_as_the_pixels_say(config, tmp_path):
    agent = make_agent(config)
    *_, table = draw_world_model(model(agent), episode(), WINDOW, tmp_path / "x", seed=1)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    windows = episode().pictures[: 2 * WINDOW].numpy().reshape(2, WINDOW, -1).astype(float) / 255
    rebuilt = reconstruct(agent.autoencoder, episode().pictures[: 2 * WINDOW], None).numpy().reshape(2, WINDOW, -1)
    assert [int(row["step"]) for row in rows] == list(range(1, WINDOW - OBSERVED + 1))
    for row, step in zip(rows, range(OBSERVED, WINDOW), strict=True):
        expected = ((windows[:, step] - windows[:, OBSERVED - 1]) ** 2).mean()
        assert float(row["last_picture"]) == pytest.approx(expected, rel=1e-4)
        for name, guess in (("last", rebuilt[:, OBSERVED - 1]), ("truth", rebuilt[:, step])):
            expected = ((windows[:, step] - guess) ** 2).mean()
            assert float(row[f"{name}_reconstructed"]) == pytest.approx(expected, rel=1e-4)
        assert float(row["open_loop"]) > 0 and float(row["state_of_truth"]) > 0


def test_figures_change_nothing_of_a_run(config, tmp_path):
    agent = make_agent(config)
    before = agent.generators.state()
    state = torch.random.get_rng_state()
    draw_world_model(model(agent), episode(), WINDOW, tmp_path / "x", seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    after = agent.generators.state()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_two_stems_stand_side_by_side_under_one_mask(config, tmp_path):
    conv, patch = model(make_agent(config)), model(make_agent(config, stem="patch"))
    (alone,) = draw_world_model(conv, episode(8), WINDOW, tmp_path / "alone", 1)
    (both,) = draw_world_model(conv, episode(8), WINDOW, tmp_path / "both", 1, beside=patch)
    with Image.open(alone) as one, Image.open(both) as two:
        assert two.height == one.height and two.width > 1.6 * one.width
        assert not np.array_equal(np.asarray(one)[:, :200], np.asarray(two)[:, -200:])
    # 16 tokens of 8 x 8 pixels: a patch stem sees nothing of what it drops.
    dropped = "12 of 16 tokens are dropped"
    assert masking_note(conv.section, 32).startswith(f"{dropped}: features of white cells, not their pixels\n")
    assert masking_note(patch.section, 32) == f"{dropped}: pixels of white cells\n75% of the pixels are unseen"


def test_the_pixel_baseline_has_no_masks(config, tmp_path):
    agent = make_agent(config, world_model="pixels")
    paths = draw_world_model(model(agent), episode(), WINDOW, tmp_path / "x", seed=1)
    assert [path.name for path in paths] == ["x_prediction.png", "x_open_loop.png", "x_open_loop.csv"]
    pixels = episode(4).pictures
    assert torch.allclose(agent.autoencoder.undo(agent.autoencoder.features(pixels)), pixels / 255, atol=1e-6)


def test_without_a_mask_nothing_is_hidden(config):
    agent = make_agent(config, mask_ratio=0.0)
    pictures = episode(2).pictures
    assert reconstruct(agent.autoencoder, pictures, agent.autoencoder.mask(torch.rand(2, 16))).shape == pictures.shape
    assert masking_note(agent.section, 32).startswith("0 of 16 tokens")
