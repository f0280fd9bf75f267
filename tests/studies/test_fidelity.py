"""The keys that set the fidelities apart: what each does, and the ledger of what that changes.

tests/test_configs.py holds which keys these are.
"""

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from atari.replay import SequenceReplay
from auxiliaries.slot import Shared, whole_loss
from mlr.augmentation import Augmentation
from mlr.masking import hide
from studies.fidelity import __main__ as command
from studies.fidelity import atari, dmcontrol
from studies.fidelity.effects import Effect, number
from studies.fidelity.lab import Sizes
from studies.fidelity.rows import mean_lag
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL

CPU = torch.device("cpu")
SIZES = Sizes(seeds=1, windows=2, steps=60, counted_steps=60, updates=2, draws=50)
TINY = [f"--{name.replace('_', '-')}={size}" for name, size in dataclasses.asdict(SIZES).items()]


def rainbow(*overrides):
    return make_agent_and_replay(ATARI, make_config("unused", *overrides), CPU)[0]


def sac(*overrides):
    return make_agent_and_replay(DMCONTROL, make_dmcontrol_config("unused", *overrides), CPU)[0]


def auxiliary_loss(agent):
    """[T, B] of clips that are the same each time."""
    size, channels, action = (84, 4, torch.tensor(3)) if hasattr(agent, "head") else (40, 9, torch.tensor([0.5]))
    steps, generator = agent.auxiliary.reads.steps, torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (steps, 2, channels, size, size), dtype=torch.uint8, generator=generator)
    clips = SimpleNamespace(frames=frames, actions=action.expand(steps, 2, *action.shape))
    return whole_loss(agent.auxiliary, clips, Shared())[0]


def test_masked_scale_multiplies_what_the_masked_branch_sees():  # F1
    seen = []
    for scale in (255, 1):
        agent = rainbow(f"mlr.masked_scale={scale}")
        for encoder in (agent.encoder, agent.auxiliary.targets["encoder"]):
            encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        auxiliary_loss(agent)
    masked, whole, masked_paper, whole_paper = seen
    torch.testing.assert_close(masked, 255 * masked_paper)
    assert torch.equal(whole, whole_paper) and whole.max() > 200


@pytest.mark.parametrize("rounding, hidden", [("up", 25), ("down", 24)])
def test_rounding_decides_on_the_odd_cell(rounding, hidden):  # F2
    mask = rainbow(f"mlr.mask.rounding={rounding}").auxiliary.objective.mask()
    assert set(mask.sum(dim=(-2, -1)).flatten().tolist()) == {hidden}
    frames = hide(torch.ones(mask.shape[1], 1, 1, 84, 84), mask)
    assert frames.mean().item() == pytest.approx(1 - hidden / 49)


def test_sigma0_is_the_initial_noise():  # F3
    ratios = []
    for sigma0 in (0.1, 0.5):
        layer = rainbow(f"agent.noisy_sigma0={sigma0}").head.value_hidden
        assert layer.weight_sigma.unique().item() == pytest.approx(sigma0 / layer.mean.in_features**0.5)
        ratios.append(layer.bias_sigma)
    torch.testing.assert_close(5 * ratios[0], ratios[1])


@pytest.mark.parametrize("make", [rainbow, sac])
def test_distance_scale_halves_the_loss(make):  # F5
    losses = [auxiliary_loss(make(f"mlr.distance_scale={scale}")) for scale in (1, 0.5)]
    assert torch.equal(0.5 * losses[0], losses[1]) and losses[0].min() > 0


def make_replay(done, ends):
    """60 steps, after each of `ends` of which a life is lost."""
    config = make_config("unused", f"agent.n_step_done={done}")
    replay = SequenceReplay(config.replay, config.agent, (84, 84), 4, CPU)
    blank = np.zeros((4, 84, 84), dtype=np.uint8)
    for step in range(60):
        replay.begin_step()
        replay.store(blank, 0, 0.0, False, False, None, {"life_lost": step in ends})
    return replay


def test_n_step_done_stops_the_bootstrap_before_a_later_end():  # F6
    starts = torch.arange(10, 20)
    done = {name: make_replay(name, {15}).gather(starts, 0.0, None).done.tolist() for name in ("one_step", "n_step")}
    assert done["one_step"] == [start == 15 for start in range(10, 20)]
    assert done["n_step"] == [start <= 15 < start + 3 for start in range(10, 20)]  # of 3 steps in this preset


def test_redraw_leaves_nothing_a_copy():  # F7
    for redraw in (True, False):
        agent = sac(f"aux_networks.redraw={redraw}")
        online = (agent.encoder.latent.fc, agent.auxiliary.owned["projector"][0], agent.encoder.latent.fc)
        targets = agent.auxiliary.targets
        copies = (targets["encoder"].latent.fc, targets["projector"][0], agent.target_encoder.latent.fc)
        assert [torch.equal(a.weight, b.weight) for a, b in zip(online, copies, strict=True)] == [not redraw] * 3


def test_emulator_is_a_choice_of_its_own():  # F8
    assert {make_config("unused", f"fidelity={name}").environment.emulator for name in ("released", "paper")} == {"ale"}


@pytest.mark.parametrize("crop", ["resample", "slice"])
def test_crop_decides_between_pixels_and_mixtures_of_them(crop):  # F9
    config = make_config("unused", f"augmentation.crop={crop}", "augmentation.intensity=0")
    frames = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels = Augmentation(config.augmentation, 84, 84)(frames, torch.Generator().manual_seed(1))
    whole = (pixels == pixels.round()).float().mean().item()
    assert whole == 1 if crop == "slice" else whole < 0.1


@pytest.mark.parametrize("last, never, unseen", [("false", 1 - 6**2 / 7**2, 1 - 39**2 / 40**2), ("true", 0, 0)])
def test_rl_crop_last_offset_decides_on_the_far_edge(last, never, unseen):  # F10
    config = make_dmcontrol_config("unused", f"agent.rl_crop_last_offset={last}")  # 34 of 40 pixels
    found = dmcontrol.offset_statistics(config, draws=2000)
    assert found["share of the crop windows never drawn"] == pytest.approx(never)
    assert found["share of the pixels never seen by the RL losses"] == pytest.approx(unseen)


# How it is measured


def test_bootstraps_across_an_end_are_counted():
    replay, ends = make_replay("one_step", {20, 22, 40}), {20, 22, 40}
    starts = range(3, 60 - 1 - 3 - 4)  # a stack behind; n-step 3 and 4 observations ahead
    wrong = [start not in ends and any(start + ahead in ends for ahead in (1, 2)) for start in starts]
    assert atari.wrong_bootstraps(replay) == pytest.approx(sum(wrong) / len(wrong))


@pytest.mark.parametrize("every, before_step, lag", [(1, True, 1.0), (1, False, 0.0)])
def test_a_copy_of_weight_one_is_behind_by_its_order(every, before_step, lag):
    assert mean_lag(1.0, every, 10, before_step) == lag


def test_a_slow_copy_is_behind_by_its_time_constant():
    assert mean_lag(0.05, 1, 2000, False) == pytest.approx(0.95 / 0.05)
    assert mean_lag(0.05, 2, 2000, False) == pytest.approx(2 * 0.95 / 0.05 + 0.5)


def test_numbers_show_their_range():
    assert number(0.25) == number(0.25, 0.25) == "0.25"
    assert number(1, 2, torch.tensor(6.0)) == "3 (1 to 6)"


def test_the_gradients_of_a_setting_are_those_of_the_same_draws():
    lab = atari.make_lab(["preset=tiny"], SIZES)
    loss, norm, cosine, whole = atari.MEASUREMENTS["F5"](lab)
    assert float(loss.released) == pytest.approx(2 * float(loss.paper), rel=0.01)
    assert float(norm.released) == pytest.approx(2 * float(norm.paper), rel=0.01)
    assert cosine.compared == "1" and 0 < float(whole.compared) <= 1


def test_the_command_measures_what_is_asked_for(tmp_path, capsys):
    rows, out = ["F2", "F3", "F16"], tmp_path / "effects.csv"
    assert command.main([*rows, "preset=tiny", "--suite", "atari", *TINY, "--out", str(out)]) == 0
    found = list(csv.DictReader(out.open()))
    assert list(dict.fromkeys(entry["row"] for entry in found)) == rows
    assert {entry["settings"].split("; ")[-1] for entry in found} == {"preset=tiny"}
    shares = next(entry for entry in found if entry["quantity"] == "hidden share of the pixels")
    assert (shares["released"], shares["paper"]) == ("0.51", "0.49")
    assert "F16" in capsys.readouterr().out


def test_what_reads_the_dmcontrol_agent_s_own_losses_is_measured(tmp_path):
    out = tmp_path / "effects.csv"
    assert command.main(["F12", "F14", "preset=tiny", "--suite", "dmcontrol", *TINY, "--out", str(out)]) == 0
    assert {entry["row"] for entry in csv.DictReader(out.open())} == {"F12", "F14"}


@pytest.mark.parametrize("arguments, message", [
    (["F8"], "F8 cannot be measured; choose among F1, F2,"),
    (["--seeds", "0"], "must be at least 1"),
    (["F2", "--suite", "atari", "preset=tinny"], "did you mean tiny?"),
])  # fmt: skip
def test_the_command_refuses_in_one_line(arguments, message, capsys):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


# The ledger


def test_the_ledger_shows_the_committed_numbers():
    assert f"{command.START}\n{command.block()}\n{command.END}" in command.LEDGER.read_text()


def test_every_row_has_a_line_and_what_can_be_measured_is():
    table = command.LEDGER.read_text().split(command.START)[0]
    effects = list(csv.DictReader(command.EFFECTS.open()))
    for row in (f"F{index}" for index in range(1, 17)):
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
        assert ("not measured" if row == "F8" else "below") in line
    for suite in (atari, dmcontrol):
        measured = {entry["row"] for entry in effects if entry["suite"] == suite.SUITE}
        assert measured == set(suite.MEASUREMENTS)
    assert all(entry["released"] or entry["compared"] for entry in effects)
    assert set(effects[0]) == {*Effect.__dataclass_fields__, "settings"}
