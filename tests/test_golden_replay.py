import json
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atari.environment import AtariEnv
from tests.golden import replay
from tests.golden.check import DATA, assert_all, in_order, setting
from tests.golden.replay import atari_a_b_c, atari_f_g, atari_h_i, missing, not_replayed, run

ATARI = DATA / "atari"


def change(folder, name, **arrays):
    """Writes the file anew into `folder`, with other arrays where given."""
    with np.load(ATARI / name) as file:
        np.savez(folder / name, **(dict(file) | arrays))


def failed(replays, folder):
    return [check for check in run(replays, folder) if not check.passed]


@pytest.fixture
def only(monkeypatch):
    """Limits the command to some replays of Atari."""

    def limit(*replays):
        monkeypatch.setattr(replay, "ATARI", replays)
        monkeypatch.setattr(replay, "DMCONTROL", ())
        monkeypatch.setattr(replay, "MWM", ())
        monkeypatch.setattr(replay, "DMCONTROL_AUXILIARIES", ())
        monkeypatch.setattr(replay, "ATARI_AUXILIARIES", ())

    return limit


def test_a_wrong_value_is_shown_and_ends_with_1(tmp_path, only, capsys):
    only(atari_f_g.replay_f)
    assert replay.main([]) == 0
    assert "5 of 5 quantities agree" in capsys.readouterr().out
    shutil.copytree(ATARI, tmp_path, dirs_exist_ok=True)
    beta = np.load(ATARI / "f_schedules.npz")["beta_after_iteration"]
    beta[-1] += 0.01
    change(tmp_path, "f_schedules.npz", beta_after_iteration=beta)
    assert replay.main(["--atari", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "off: f_schedules.npz: beta\n4 of 5 quantities agree" in output


def test_nothing_to_compare_is_a_failure(tmp_path):
    (check,) = failed((atari_f_g.replay_f,), tmp_path)
    assert (check.file, check.quantity) == ("replay_f", "no file to compare")


def test_every_missing_file_is_named_and_ends_with_1(tmp_path, only, capsys):
    only(atari_f_g.replay_f)
    shutil.copytree(ATARI, tmp_path, dirs_exist_ok=True)
    (tmp_path / "j_augment.npz").unlink()
    (tmp_path / "e_replay_small.npz").unlink()
    assert replay.main(["--atari", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert f"off: j_*.npz: missing in {tmp_path}" in output and "off: e_replay_small.npz: missing" in output
    assert len(list(missing(tmp_path / "nowhere", replay.ATARI_FILES))) == len(replay.ATARI_FILES)


def test_files_that_nothing_looks_at_are_named(tmp_path):
    for name in ("a_conv.npz", "README.md", "d_real_size.json", "z.npz"):
        (tmp_path / name).touch()
    assert not_replayed(tmp_path, replay.ATARI_FILES) == ["z.npz"]


def test_a_damaged_file_is_a_failure_and_the_others_are_replayed(tmp_path):
    shutil.copytree(ATARI, tmp_path, dirs_exist_ok=True)
    change(tmp_path, "c_distloss.npz", action=np.zeros((2, 2)))
    (check,) = failed((atari_a_b_c.replay_c, atari_f_g.replay_f), tmp_path)
    assert check.file == "replay_c" and check.quantity.startswith("stopped: ")
    np.savez(tmp_path / "c_distloss.npz", kl_double=np.zeros(2))
    (check,) = failed((atari_a_b_c.replay_c, atari_f_g.replay_f), tmp_path)
    assert (check.file, check.quantity) == ("c_distloss.npz", "nothing in it to compare")


@pytest.mark.parametrize(
    ("name", "key", "relative"),
    [
        ("a_conv.npz", "conv", 3e-5),
        ("a_conv.npz", "grad.conv2.b", 3e-5),
        ("b_head.npz", "grad_sum_l2", 6e-5),
        ("b_head.npz", "q_mu", 3e-5),
        ("c_distloss.npz", "kl_single", 3e-5),
    ],
)
def test_an_error_above_the_tolerance_is_noticed(tmp_path, name, key, relative):
    shutil.copy(ATARI / "weights_small.npz", tmp_path)
    expected = np.load(ATARI / name)[key]
    letters = {"a": atari_a_b_c.replay_a, "b": atari_a_b_c.replay_b, "c": atari_a_b_c.replay_c}
    shutil.copy(ATARI / "a_conv.npz", tmp_path)  # which the strides are read off
    change(tmp_path, name, **{key: expected * (1 + relative)})
    assert [check.quantity.split()[0] for check in failed((letters[name[0]],), tmp_path)] == [key]


def test_an_encoder_of_other_depth_strides_and_image_is_replayed(tmp_path):
    """File a of four convolutions, computed here."""
    channels, kernels, strides, side = (2, 3, 5, 4), (5, 3, 3, 2), (3, 2, 1, 1), 52
    draw = np.random.default_rng(0)
    with np.load(ATARI / "weights_small.npz") as file:
        weights = {name: array for name, array in file.items() if not name.startswith("conv")}
    layers, wide = {}, 3
    for number, (width, kernel) in enumerate(zip(channels, kernels, strict=True), start=1):
        layers[f"conv{number}.w"] = draw.normal(0, 0.3, (width, wide, kernel, kernel)).astype(np.float16)
        layers[f"conv{number}.b"] = draw.normal(0, 0.1, width).astype(np.float16)
        wide = width
    parameters = {name: torch.tensor(array).float().requires_grad_() for name, array in layers.items()}

    def encode(pixels):
        for number, stride in enumerate(strides, start=1):
            pixels = F.relu(F.conv2d(pixels, parameters[f"conv{number}.w"], parameters[f"conv{number}.b"], stride))
        low, high = pixels.flatten(1).min(1).values, pixels.flatten(1).max(1).values
        return pixels, (pixels - low[:, None, None, None]) / (high - low)[:, None, None, None]

    obs = draw.integers(0, 256, (3, 3, side, side), dtype=np.uint8)
    conv, renorm = encode(torch.tensor(obs) / 255)
    weighting = torch.tensor(draw.normal(size=renorm.shape)).float()
    (renorm * weighting).sum().backward()
    blank = encode(torch.zeros(1, 3, side, side))
    arrays = {
        "obs": obs, "conv": conv, "renorm": renorm, "weighting": weighting, "conv_blank": blank[0],
        "renorm_blank": blank[1], "renorm_255": encode(torch.tensor(obs).float())[1],
        **{f"grad.{name}": parameter.grad for name, parameter in parameters.items()},
    }  # fmt: skip
    np.savez(tmp_path / "a_conv.npz", **{name: np.asarray(torch.as_tensor(a).detach()) for name, a in arrays.items()})
    weights |= layers | {"act_embed.w": np.zeros((renorm[0].numel(), 6)), "act_embed.b": np.zeros(renorm[0].numel())}
    for layer in ("adv_hidden", "val_hidden"):
        for kind in ("mu", "sigma"):
            weights[f"head.{layer}.w_{kind}"] = np.zeros((16, renorm[0].numel()), np.float16)
    np.savez(tmp_path / "weights_small.npz", **weights)
    checks = list(atari_a_b_c.replay_a(tmp_path))
    assert_all(checks)
    assert len(checks) == 5 + 8 + 1


def record_trace(folder, name, actions, *, seed, horizon=27_000, settings=()):
    """Writes a trace that our own environment plays: it proves which file is understood, not that values are right."""
    game, mode = name.split("-")
    env = atari_h_i.make(game, 42, 3, seed=seed, index=0, training=mode != "eval", horizon=horizon)
    env.reset()
    trace = {"action": actions, "n_actions": env.action_space.n, "action_set": env.emulator.actions} | dict(settings)
    for event in atari_h_i.play(env, actions):
        if event.quantity != "first_obs" or event.index < 2:
            trace.setdefault(event.quantity, []).append(event.value)
    trace["first_obs"] = np.stack(trace["first_obs"])[:, :, None]
    path = folder / f"h_env_{game}_{mode}.npz"
    np.savez(path, **trace)
    return path


@pytest.fixture
def played(monkeypatch):
    """Counts steps of the emulator's environment."""
    steps, step = [], AtariEnv.step
    monkeypatch.setattr(AtariEnv, "step", lambda env, action: steps.append(action) or step(env, action))
    return steps


def test_a_trace_of_an_unnamed_seed_is_found(tmp_path):
    """The first ten steps of a run with seed 4; no file of the folder says so."""
    record_trace(tmp_path, "freeway-train", np.arange(10) % 3, seed=4)
    assert_all(atari_h_i.replay_h(tmp_path))


def test_a_seed_that_the_file_names_is_the_only_one(tmp_path):
    path = record_trace(tmp_path, "freeway-train", np.arange(10) % 3, seed=123)
    np.savez(path, **{**np.load(path), "seed": 123})
    assert_all(atari_h_i.replay_h(tmp_path))
    np.savez(path, **{**np.load(path), "seed": 124})
    (check,) = failed((atari_h_i.replay_h,), tmp_path)
    assert "at the start" in check.quantity


def first_steps(name, steps):
    """The first steps of a reference trace, with the resets among them."""
    arrays = dict(np.load(ATARI / name))
    resets = np.count_nonzero(arrays["reset_steps"] < steps)
    lengths = {"reset_steps": resets, "reset_obs_hash": resets + 1}
    whole = len(arrays["action"])
    lengths |= {key: steps for key, values in arrays.items() if np.shape(values)[:1] == (whole,)}
    return arrays | {key: arrays[key][:length] for key, length in lengths.items()}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("key", "index", "message"),
    [
        ("reward", 7, "reward at step 7: .* instead of .*"),
        ("lives", 280, r"lives at step 280: (\d+) instead of (\d+)"),
        ("obs_hash", 299, r"obs_hash at step 299: \d+ instead of \d+"),
        ("first_obs", (2, 3, 0, 40, 40), r"first_obs at step 1: \d+ pixels differ"),
        ("reset_obs_hash", 1, "reset_obs_hash at step 254: .*"),
        ("reset_steps", 0, "reset_steps at step 254: 254 instead of 255"),
    ],
)
def test_a_wrong_trace_is_refused_at_its_step(tmp_path, played, key, index, message, named):
    """Few steps are played, in search of a seed too where none is named."""
    arrays = first_steps("h_env_breakout_train.npz", 300)
    arrays[key][index] += 1
    np.savez(tmp_path / "h_env_breakout_train.npz", **arrays)
    if named:
        shutil.copy(ATARI / "i_noops_seed1.npz", tmp_path)
    (check,) = failed((atari_h_i.replay_h,), tmp_path)
    assert re.fullmatch(message, check.quantity), check.quantity
    assert len(played) <= (atari_h_i.SEARCHED + 1) * 300


def test_a_trace_with_a_step_left_out_is_refused(tmp_path):
    arrays = first_steps("h_env_breakout_eval.npz", 150)
    every_step = [key for key, values in arrays.items() if np.shape(values)[:1] == (150,)]
    arrays |= {key: np.delete(arrays[key], 100) for key in every_step}
    np.savez(tmp_path / "h_env_breakout_eval.npz", **arrays)
    (check,) = failed((atari_h_i.replay_h,), tmp_path)
    assert "at step 100:" in check.quantity or "at step 101:" in check.quantity


@pytest.mark.parametrize("name", ["h_env_breakout_train.npz", "h_env_horizon_breakout.npz"])
def test_a_horizon_that_cuts_a_game_short_is_found(tmp_path, name):
    """The reference's first game without its last two steps, and the two after it, which are shorter."""
    arrays = first_steps("h_env_breakout_train.npz", 500)
    for key in [key for key, values in arrays.items() if np.shape(values)[:1] == (500,)]:
        arrays[key] = np.delete(arrays[key], (253, 254))
    arrays["reset_steps"] = arrays["reset_steps"] - 2
    arrays["done"][252] = arrays["traj_done"][252] = True
    np.savez(tmp_path / name, **arrays)
    shutil.copy(ATARI / "i_noops_seed1.npz", tmp_path)
    assert_all(atari_h_i.replay_h(tmp_path))
    arrays["traj_done"][252] = False
    np.savez(tmp_path / name, **arrays)
    (check,) = failed((atari_h_i.replay_h,), tmp_path)
    assert re.match(r"(traj_)?done at step 252: ", check.quantity)


@pytest.mark.parametrize("settings", [{}, {"size/horizon": 30}, {"horizon": 30}])
def test_a_game_without_lives_is_cut_short_too(tmp_path, settings):
    record_trace(tmp_path, "pong-horizon", np.arange(100) % 6, seed=3, horizon=30, settings=settings)
    checks = list(atari_h_i.replay_h(tmp_path))
    assert_all(checks)
    assert "reset_steps" in [check.quantity for check in checks]


def test_the_protocol_of_evaluation_is_compared(tmp_path):
    protocol = json.loads((ATARI / "i_eval.json").read_text())
    (tmp_path / "i_eval.json").write_text(json.dumps(protocol | {"n_trajectories": 10}))
    assert [check.quantity for check in failed((atari_h_i.replay_i,), tmp_path)] == ["n_trajectories"]


def test_scalars_below_size_and_numbers_in_names():
    arrays = {"size/heads": np.array(2), "case/size/pad": np.array(3), "heads": np.array(7)}
    assert [setting(arrays, name, 1) for name in ("heads", "pad", "strides")] == [2, 3, 1]
    assert in_order(["c1.s10", "c1.s2", "c1.s0"]) == ["c1.s0", "c1.s2", "c1.s10"]
