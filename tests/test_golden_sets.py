"""Other sets of the layout of the reference files are understood.

Values are cut from the shipped files, or follow from them by a relation, or from the README's words by a few lines of
numpy. `ours` in a name says that this project computed them: such a test proves which keys are read, no value.
"""

import shutil

import numpy as np
import pytest
import torch

from tests.golden import (
    atari_a_b_c,
    atari_d,
    atari_e,
    dmcontrol_core,
    dmcontrol_d,
    dmcontrol_e,
    dmcontrol_f,
    dmcontrol_g,
    dmcontrol_h,
    dmcontrol_j,
)
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_weights import UNUSED
from tests.golden.replay import run
from tests.test_golden_other_sizes import plain_block

ATARI, DMCONTROL = DATA / "atari", DATA / "dmcontrol"


def load(folder, name):
    return dict(np.load(folder / name))


@pytest.fixture
def dmcontrol(tmp_path):
    """The starting state and the batch, to be changed."""
    for name in ("state.npz", "batch.npz"):
        shutil.copy(DMCONTROL / name, tmp_path)
    return tmp_path


def write(folder, name, **arrays):
    np.savez(folder / name, **arrays)


def rewrite(folder, name, source=DMCONTROL, drop=(), **arrays):
    """Writes a shipped file with other arrays where given, and without some."""
    kept = {key: value for key, value in load(source, name).items() if key not in drop}
    write(folder, name, **(kept | arrays))


def errors(replay, folder):
    return [check for check in run((replay,), folder) if not check.passed]


# ---- sizes, windows, augmentation


def in_a_larger_picture(rows, columns, size=108):
    """The shipped clips inside pictures of noise, frame t at (rows[t], columns[t]), with their masks pixel by pixel."""
    batch, draw = load(DMCONTROL, "batch.npz"), np.random.default_rng(0)
    frames, cells = batch["seq_observation"], batch["mask_cells_per_frame"]
    pictures = draw.integers(0, 256, (*frames.shape[:3], size, size), dtype=np.uint8)
    hidden = draw.integers(0, 2, (len(cells), size, size), dtype=np.uint8)
    for t, (row, column) in enumerate(zip(rows, columns, strict=True)):
        inside = np.s_[row : row + 100, column : column + 100]
        pictures[(t, slice(None), slice(None), *inside)] = frames[t]
        hidden[(t, *inside)] = np.kron(cells[t], np.ones((10, 10), dtype=np.uint8))
    return batch | {"seq_observation": pictures, "mask_cells_per_frame": hidden}


@pytest.mark.parametrize("where", ["", "size/", "main/"])
def test_a_window_of_the_file_goes_before_the_centre(dmcontrol, where):
    write(dmcontrol, "batch.npz", **in_a_larger_picture(rows=[5] * 8, columns=[2] * 8))
    window = {f"{where}window_row": np.int64(8 + 5), f"{where}window_col": np.int64(8 + 2)}
    case = {key: value for key, value in load(DMCONTROL, "e_mlr_loss.npz").items() if key.startswith("main/")}
    write(dmcontrol, "e_mlr_loss.npz", **case, **window)
    checks = list(dmcontrol_e.replay_e(dmcontrol))
    assert_all(checks)
    assert len(checks) > 60
    write(dmcontrol, "e_mlr_loss.npz", **case)
    assert errors(dmcontrol_e.replay_e, dmcontrol)


def test_each_frame_may_have_a_window_of_its_own(dmcontrol):
    rows, columns = np.arange(8), np.arange(8)[::-1]
    window = {"window_row": np.repeat(8 + rows, 3), "window_col": np.repeat(8 + columns, 3).reshape(8, 3)}
    write(dmcontrol, "batch.npz", **in_a_larger_picture(rows, columns), **window)
    names = ("loss", "predicted", "target_projected")
    main = {f"main/{name}": load(DMCONTROL, "e_mlr_loss.npz")[f"main/{name}"] for name in names}
    write(dmcontrol, "e_mlr_loss.npz", **main)
    checks = list(dmcontrol_e.replay_e(dmcontrol))
    assert_all(checks)
    assert len(checks) == 3


@pytest.mark.parametrize("recording", ["views", "brightness", "normals"])
def test_recorded_augmentation_of_dmcontrol(dmcontrol, recording):
    batch = load(DMCONTROL, "batch.npz")
    frames, draw = batch["seq_observation"].astype(np.float32), np.random.default_rng(0)
    masked = frames * (1 - np.kron(batch["mask_cells_per_frame"], np.ones((10, 10))))[:, None, None]
    if recording == "views":
        recorded = {"masked_view": masked[..., 8:92, 8:92], "target_view": frames[..., 8:92, 8:92]}
        batch["seq_observation"] = np.zeros_like(batch["seq_observation"])
    else:
        # Both branches see the frames times their factors, so that the frames divided by them give the shipped values.
        normal = draw.normal(size=(8, 3))
        factor = (1 + 0.05 * np.clip(normal, -2, 2)).astype(np.float32)
        batch["seq_observation"] = frames / factor[:, :, None, None, None]
        recorded = {"intensity": factor} if recording == "brightness" else {"normal": normal.astype(np.float32).ravel()}
    write(dmcontrol, "batch.npz", **batch)
    whole = load(DMCONTROL, "e_mlr_loss.npz")
    case = {key: value for key, value in whole.items() if key.startswith("main/")}
    write(dmcontrol, "e_mlr_loss.npz", **case, **{f"main/{name}": values for name, values in recorded.items()})
    assert_all(dmcontrol_e.replay_e(dmcontrol))
    write(dmcontrol, "e_mlr_loss.npz", **case)
    assert errors(dmcontrol_e.replay_e, dmcontrol)


def test_fewer_windows(dmcontrol):
    """The last two of three; the loss follows from the shipped predictions and targets."""
    batch, e = load(DMCONTROL, "batch.npz"), load(DMCONTROL, "e_mlr_loss.npz")
    rewrite(dmcontrol, "batch.npz", **{key: batch[key][:, 1:] for key in ("seq_observation", "seq_action")})
    rows = ("masked_latents", "predicted", "target_projected")
    cut = {name: e[f"main/{name}"].reshape(8, 3, 50)[:, 1:].reshape(16, 50) for name in rows}
    cut["tokens_after_block1"] = e["main/tokens_after_block1"][1:]
    unit = [cut[name] / np.linalg.norm(cut[name], axis=1, keepdims=True) for name in ("predicted", "target_projected")]
    cut["loss"] = np.square(unit[0] - unit[1]).sum(axis=1).mean()
    write(dmcontrol, "e_mlr_loss.npz", **{f"fewer/{name}": values for name, values in cut.items()})
    checks = list(dmcontrol_e.replay_e(dmcontrol))
    assert_all(checks)
    assert len(checks) == 5


@pytest.mark.parametrize("recording", ["time and batch", "rows", "views"])
def test_recorded_augmentation_of_atari_ours(tmp_path, recording):
    """A crop that is recorded by its offsets gives what its pixels give, to be refused where nothing is recorded."""
    shutil.copy(ATARI / "weights_small.npz", tmp_path)
    d, draw = load(ATARI, "d_mlr.npz"), np.random.default_rng(0)
    size, frames = 84, torch.from_numpy(d["obs"][:4]).flatten(2, 3)
    kept = torch.from_numpy(d["mask"])[:, None]
    crop, offsets = atari_d.shift({}, size), {name: draw.integers(0, 9, (4, 2, 2)) for name in ("masked", "target")}
    views = {
        name: crop(images.flatten(0, 1), torch.from_numpy(offsets[name]).view(-1, 2)).unflatten(0, (4, 2)).numpy()
        for name, images in (("masked", frames * kept), ("target", frames))
    }
    model, clip, hidden = (
        atari_d.load_model(tmp_path / "weights_small.npz"),
        atari_d.make_clip(d),
        atari_d.hidden_cells(d["mask"]),
    )
    mlr = atari_d.make_mlr(model, hidden, 1.0, *(lambda frames, v=v: torch.from_numpy(v) for v in views.values()))
    with torch.no_grad():
        loss = mlr.loss(clip, mlr.draw(clip.frames), slice(None))["loss"].numpy()
    case = {key: d[key] for key in ("obs", "all_action", "mask")}
    case |= {"div.loss_tb": loss, "div.loss_mean": loss.mean()}
    recorded = {f"div.{name}_offset_xy": values for name, values in offsets.items()}
    if recording == "rows":
        recorded = {key: values.transpose(1, 0, 2).reshape(8, 2) for key, values in recorded.items()}
    if recording == "views":
        recorded = {f"div.{name}_view": values for name, values in views.items()}
    write(tmp_path, "d_mlr.npz", **case, **recorded)
    checks = list(atari_d.replay_d(tmp_path))
    assert_all(checks)
    assert len(checks) == 2
    write(tmp_path, "d_mlr.npz", **case)
    assert len(errors(atari_d.replay_d, tmp_path)) == 2


def test_a_single_window_of_atari(tmp_path):
    for name in ("weights_small.npz", "a_conv.npz"):
        shutil.copy(ATARI / name, tmp_path)
    d = load(ATARI, "d_mlr.npz")
    cut = {key: d[key][:, 1:] for key in ("obs", "all_action", "off.loss_tb")} | {"mask": d["mask"]}
    cut |= {f"off.{key}": d[f"off.{key}"][1:] for key in ("tokens_in", "after_block0", "after_block1", "logp")}
    cut |= {f"off.{key}": d[f"off.{key}"][4:] for key in ("proj_pred", "pred", "target")}  # batch-major
    write(tmp_path, "d_mlr.npz", **cut, **{"off.loss_mean": cut["off.loss_tb"].mean()})
    checks = list(atari_d.replay_d(tmp_path))
    assert_all(checks)
    assert len(checks) == 10


# ---- updates


def test_an_update_without_the_actor_may_come_first(dmcontrol):
    """One update of the shipped case: critic and MLR step before the actor, which then has the weights of before."""
    h = load(DMCONTROL, "h_whole_update.npz")
    case, names = "mlr_lr_5em4/", [str(name) for name in h["mlr_lr_5em4/param_names"]]
    before, after = h[f"{case}sum_and_l2"][:2]
    still = ("actor/", "critic_target/", "mlr/target_", "log_alpha", UNUSED)
    after = np.array(
        [old if name.startswith(still) else new for name, old, new in zip(names, before, after, strict=True)]
    )
    log = dict(zip(h[f"{case}log_columns"], h[f"{case}log"][0].copy(), strict=True))
    log |= {"actor_loss": np.nan, "alpha_loss": np.nan}
    prefix = f"{case}params_after_update1/"
    weights = {
        f"odd/params_after_update1/{key.removeprefix(prefix)}": value
        for key, value in h.items()
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(still)
    }
    write(
        dmcontrol,
        "h_whole_update.npz",
        **weights,
        **{
            "odd/param_names": names,
            "odd/sum_and_l2": np.stack([before, after]),
            "odd/log_columns": list(log),
            "odd/log": np.array([list(log.values())]),
        },
    )
    checks = list(dmcontrol_h.replay_h(dmcontrol))
    assert_all(checks)
    assert len(checks) > 60
    log["actor_loss"] = h[f"{case}log"][0][list(log).index("actor_loss")]
    rewrite(dmcontrol, "h_whole_update.npz", source=dmcontrol, **{"odd/log": np.array([list(log.values())])})
    assert errors(dmcontrol_h.replay_h, dmcontrol)


@pytest.mark.parametrize(("ran", "every", "before"), [("1010", 2, 0), ("0101", 2, 1), ("0010", 3, 1), ("1", 2, 0)])
def test_turns_of_the_actor_are_read_off_its_losses(ran, every, before):
    losses = np.array([0.5 if turn == "1" else np.nan for turn in ran])
    assert dmcontrol_h.updates_before(losses, every) == before
    ran = np.flatnonzero([turn == "1" for turn in ran])
    assert dmcontrol_h.actor_schedule(losses) == ([f"agent.update_every={np.diff(ran)[0]}"] if len(ran) > 1 else [])


def test_a_later_part_of_the_learning_rate_s_schedule_is_found():
    config = dmcontrol_h.AuxOptimizerConfig(
        batch_size=1, learning_rate=5e-4, encoder_rate_factor=1.0, warmup_updates=60, warmup_start=5e-4, clip_norm=10.0
    )
    for first in (0, 17, 58, 61, 150):
        factors = dmcontrol_h.learning_rate_factor(torch.arange(first, first + 4), 60, 5e-4)
        assert dmcontrol_h.auxiliary_updates_before(5e-4 * factors.numpy(), config) == first


# ---- windows of the replay


def scripted_starts(ends, seq_len):
    """README: the first index is at most count - T - 1, and no episode's last transition is anywhere in the window."""
    return [s for s in range(len(ends) - seq_len) if not any(ends[s : s + seq_len])]


@pytest.mark.parametrize("recording", ["done", "not_done", "terminated and truncated", "lengths", "last steps"])
def test_scripted_episodes_without_a_length(tmp_path, recording):
    ends = np.random.default_rng(3).random(90) < 0.08
    last, even = np.flatnonzero(ends), np.arange(90) % 2 == 0
    script = {
        "done": {"done": ends},
        "not_done": {"not_done": 1.0 - ends[:, None]},
        "terminated and truncated": {"terminated": ends & even, "truncated": ends & ~even},
        "lengths": {"episode_lengths": np.diff([-1, *last, 89 + 20]), "n_transitions": 90},
        "last steps": {"episode_ends": last, "n_transitions": 90},
    }[recording]  # fmt: skip
    starts = scripted_starts(ends, 5)
    case = {"T": 5, "admissible_starts": starts, "batch_requested": 16, **script}
    write(tmp_path, "j_replay_windows.npz", **{f"scripted/{key}": value for key, value in case.items()})
    checks = list(dmcontrol_j.replay_j(tmp_path))
    assert_all(checks)
    assert len(checks) == 5
    case["admissible_starts"] = np.delete(starts, 7)
    write(tmp_path, "j_replay_windows.npz", **{f"scripted/{key}": value for key, value in case.items()})
    assert errors(dmcontrol_j.replay_j, tmp_path)


def test_a_script_that_fills_the_ring(tmp_path):
    """70 steps in 40 slots. The reference knows no write position; what it draws across it is left out."""
    ends, capacity, seq_len = np.random.default_rng(5).random(70) < 0.07, 40, 4
    newest_of_slot = [max(step for step in range(70) if step % capacity == slot) for slot in range(capacity)]
    starts = scripted_starts([ends[step] for step in newest_of_slot], seq_len)
    case = {"T": seq_len, "admissible_starts": starts, "done": ends, "capacity": capacity}
    write(tmp_path, "j_replay_windows.npz", **{f"wrapped/{key}": value for key, value in case.items()})
    assert_all(dmcontrol_j.replay_j(tmp_path))


def test_a_share_of_windows_across_the_write_position_needs_no_case_of_its_name(tmp_path):
    arrays = {
        "full/fraction_windows_crossing_write_head_cap60": 0.1,
        "other/T": 6,
        "other/done": np.arange(50) % 23 == 22,
    }
    arrays["other/admissible_starts"] = scripted_starts(arrays["other/done"], 6)
    write(tmp_path, "j_replay_windows.npz", **arrays)
    assert_all(dmcontrol_j.replay_j(tmp_path))


# ---- further cases


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("separator", "/_.")
def test_a_block_of_another_width(tmp_path, separator, heads):
    torch.manual_seed(0)
    width, hidden = 12, 20
    shapes = {
        "ln1/weight": (width,), "ln1/bias": (width,), "qkv/weight": (3 * width, width), "proj/weight": (width, width),
        "proj/bias": (width,), "ln2/weight": (width,), "ln2/bias": (width,), "mlp0/weight": (hidden, width),
        "mlp0/bias": (hidden,), "mlp1/weight": (width, hidden), "mlp1/bias": (width,),
    }  # fmt: skip
    weights = {name: (0.4 * torch.randn(shape)).requires_grad_() for name, shape in shapes.items()}
    tokens = torch.randn(2, 7, width, requires_grad=True)
    output = plain_block(tokens, weights, heads)
    output.square().sum().backward()
    case = {"input": tokens, "output": output, "grad_input": tokens.grad, "size/heads": torch.tensor(heads)}
    case |= {f"weights/{name}": values for name, values in weights.items()}
    case |= {f"grad/{name}": values.grad for name, values in weights.items()}
    case = {f"other_width{separator}{name}": values.detach().numpy() for name, values in case.items()}
    rewrite(tmp_path, "b_transformer_block.npz", **case)
    checks = list(dmcontrol_core.replay_b(tmp_path))
    assert_all(checks)
    assert len(checks) == 17 + 14


def test_a_position_table_of_any_name(tmp_path):
    length, width = 7, 12
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    table = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, width)
    settings = {"size/width": 50, "length": 16, "size/table_d50_len16": np.zeros((3, 3))}
    rewrite(tmp_path, "c_positions.npz", other_width=table, **settings)
    checks = list(dmcontrol_core.replay_c(tmp_path))
    assert_all(checks)
    assert len(checks) == 3
    rewrite(tmp_path, "c_positions.npz", other_width=table[:, ::-1])
    assert len(errors(dmcontrol_core.replay_c, tmp_path)) == 1


@pytest.mark.parametrize("case", ["other_width_", "other_width/", "other_width/small_"])
def test_crops_of_other_widths(tmp_path, case):
    draw, size, out = np.random.default_rng(0), 20, 13
    images, row, column = draw.integers(0, 256, (5, 3, size, size), dtype=np.uint8), *draw.integers(0, 8, (2, 5))
    keys = {f"{case}input": images, f"{case}row_offset": row, f"{case}col_offset": column}
    cut = np.stack([image[:, r : r + out, c : c + out] for image, r, c in zip(images, row, column, strict=True)])
    rewrite(tmp_path, "i_random_crop.npz", **keys, **{f"{case}output": cut})

    def lines(offset):  # README, i2: bilinear, zeros outside
        k = np.arange(out)
        position = (offset + (k + 0.5) * (out - 1) / out) * size / (size - 1) - 0.5
        return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size)))

    pairs = zip(images, row, column, strict=True)
    resampled = np.stack([lines(r) @ image.astype(float) @ lines(c).T for image, r, c in pairs])
    rewrite(tmp_path, "i2_resampling_crop_kornia041.npz", **keys, **{f"{case}output": resampled})
    checks = list(dmcontrol_core.replay_i(tmp_path))
    assert_all(checks)
    assert len(checks) == 7 + 2


def test_masks_that_only_their_settings_describe(tmp_path):
    a = load(DMCONTROL, "a_cube_masks.npz")
    name = "mask_100_20_8_2_0p75"
    case = {f"other/{key}": a[f"{name}/{key}"] for key in ("cells", "shape", "fraction")}
    sizes = dict(zip(("image", "patch", "clip", "block", "ratio"), (100, 20, 8, 2, 0.75), strict=True))
    write(tmp_path, "a_cube_masks.npz", **case, **{f"other/size/{key}": value for key, value in sizes.items()})
    assert_all(dmcontrol_core.replay_a(tmp_path))


def test_the_encoder_on_other_images(dmcontrol):
    """The shipped latents of two images, one of them, the second first."""
    d = load(DMCONTROL, "d_pixel_encoder.npz")
    names = ("output", "fc_out", "output_actor", "output_critic_target", "output_mlr_target", "output_float64")
    case = {f"second/{name}": d[name][1:] for name in names}
    case["second/obs"] = load(DMCONTROL, "batch.npz")["obs"][1:2]
    rewrite(dmcontrol, "d_pixel_encoder.npz", **case)
    checks = list(dmcontrol_d.replay_d(dmcontrol))
    assert_all(checks)
    assert len(checks) == 22 + 6


def test_acting_on_other_frames_ours(dmcontrol):
    """More keys of the form that the shipped ones have; where the numbers point is what is tested."""
    g, reference = load(DMCONTROL, "g_sac_losses.npz"), dmcontrol_g.load_reference(dmcontrol, {})
    frame = reference.batch.frames[3, 2].numpy()
    sampled = reference.agent.act(frame, step=10**6, first=True)
    with torch.no_grad():
        mean, _ = reference.agent.actor(reference.agent.encoder.convolutions(reference.batch.obs[4:5]))
    rewrite(
        dmcontrol,
        "g_sac_losses.npz",
        **{"act/sampled_from_seq32_100px": sampled, "act/deterministic_obs4": mean[0].tanh().numpy()},
    )
    checks = list(dmcontrol_g.replay_g(dmcontrol))
    assert_all(checks)
    assert len(checks) == 76 + 2 and "act/sampled_from_seq32_100px" in [check.quantity for check in checks]
    assert not np.allclose(sampled, g["act/sampled_from_seq00_100px"], atol=1e-3)


# ---- settings


def as_settings(arrays, names):
    return {f"size/{name}" if name in names else name: value for name, value in arrays.items()}


def test_sizes_may_be_settings(tmp_path):
    names = "capacity batch_T n_step discount alpha default_leaf".split()
    write(tmp_path, "e_replay_small.npz", **as_settings(load(ATARI, "e_replay_small.npz"), names))
    assert_all(atari_e.replay_e(tmp_path))
    names = "discount n_step v_min v_max".split()
    write(tmp_path, "c_distloss.npz", **as_settings(load(ATARI, "c_distloss.npz"), names))
    assert_all(atari_a_b_c.replay_c(tmp_path))


SETTINGS = {  # names that end as a case's marker does, or begin as a case does
    dmcontrol_core.replay_a: ("a_cube_masks.npz", {"size/cells": 10, "size/mask_100_10/cells": 10}, 73),
    dmcontrol_core.replay_b: ("b_transformer_block.npz", {"size/input": 50, "size/output": 50, "heads": 1}, 17),
    dmcontrol_f.replay_f: ("f_lr_schedule.npz", {"size/lr": 1e-3, "warmup_updates": 6000, "size/step": 3}, 11),
    dmcontrol_j.replay_j: ("j_replay_windows.npz", {"size/admissible_starts": 5, "size/T": 16}, 25),
    atari_a_b_c.replay_c: ("c_distloss.npz", {"kl_floor": 1e-6, "kl_ceiling": 1e6, "size/log_probs": 51}, 6),
}


@pytest.mark.parametrize("replay", SETTINGS, ids=lambda replay: replay.__name__ + replay.__module__[-6:])
def test_settings_are_no_cases(tmp_path, replay):
    name, settings, count = SETTINGS[replay]
    rewrite(tmp_path, name, source=ATARI if replay is atari_a_b_c.replay_c else DMCONTROL, **settings)
    checks = list(run((replay,), tmp_path))
    assert_all(checks)
    assert len(checks) == count


def test_of_several_weights_those_of_the_file_s_name_are_taken(tmp_path):
    for name in ("a_conv", "weights_small"):
        shutil.copy(ATARI / f"{name}.npz", tmp_path)
    weights, a = load(ATARI, "weights_small.npz"), load(ATARI, "a_conv.npz")
    scaled = weights | {"conv3.w": 2 * weights["conv3.w"], "conv3.b": 2 * weights["conv3.b"]}
    write(tmp_path, "weights_other_width.npz", **scaled)
    other = {key: a[key] for key in ("obs", "renorm", "weighting")}  # renormalisation takes the factor away
    write(tmp_path, "a_conv_other_width.npz", **other, conv=2 * a["conv"])
    checks = list(atari_a_b_c.replay_a(tmp_path))
    assert_all(checks)
    assert {check.file for check in checks} == {"a_conv.npz", "a_conv_other_width.npz"}
