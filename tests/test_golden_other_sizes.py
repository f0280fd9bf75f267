"""Whole sets of reference files with other sizes.

Losses are computed by the words of the sets' READMEs, in a few lines of torch. `ours` in a name says that this project
computed the values: such a test proves that the sizes are understood, no value.

A D T N B action, latent, time, windows and transitions of DMControl.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tests.golden import atari_d, atari_f_g, dmcontrol_e, dmcontrol_h
from tests.golden.check import assert_all
from tests.golden.replay import run


def write(folder, name, **arrays):
    np.savez(folder / name, **arrays)


def errors(replay, folder):
    return [check for check in run((replay,), folder) if not check.passed]


def plain_block(tokens, weights, heads):
    """The README's words: x + proj(softmax(q k' / sqrt(d)) v) of LN1(x), then x + mlp1(GELU(mlp0(LN2(x))))."""

    def linear(values, layer):
        return F.linear(values, weights[f"{layer}/weight"], weights.get(f"{layer}/bias"))

    def norm(values, layer):
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{layer}/weight"] + weights[f"{layer}/bias"]

    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in linear(norm(tokens, "ln1"), "qkv").chunk(3, -1)
    )
    mixed = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1) @ value
    tokens = tokens + linear(mixed.transpose(1, 2).flatten(2), "proj")
    hidden = linear(norm(tokens, "ln2"), "mlp0")
    return tokens + linear(0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)), "mlp1")


# ---- a whole DMControl set of other sizes


A, D, HIDDEN, FILTERS, PROJECTION, T, N, B, IMAGE, CROP, CHANNELS, BLOCKS, HEADS = (
    3,
    12,
    10,
    4,
    7,
    5,
    2,
    3,
    40,
    29,
    6,
    3,
    2,
)
STRIDES, ROW, COLUMN = (2, 1, 1), 2, 9


def other_state():
    """Weights by the README's names, drawn here; big matrices are integers times a scale."""
    draw, state = np.random.default_rng(1), {"fc_scale": np.float64(2**-7), "log_alpha": np.float64(-1.5)}

    def linear(name, inputs, outputs, bias=True):
        state[f"{name}/weight"] = draw.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
        if bias:
            state[f"{name}/bias"] = draw.normal(0, 0.1, outputs).astype(np.float32)

    def norm(name):
        state[f"{name}/weight"] = draw.normal(1, 0.2, D).astype(np.float32)
        state[f"{name}/bias"] = draw.normal(0, 0.1, D).astype(np.float32)

    def latent(name, features):
        state[f"{name}/fc/weight"] = draw.integers(-9, 10, (D, features)).astype(np.int8)
        state[f"{name}/fc/bias"] = draw.normal(0, 0.1, D).astype(np.float32)
        norm(f"{name}/ln")

    side = CROP
    for stride in STRIDES:
        side = (side - 3) // stride + 1
    for name in ("critic/encoder", "critic_target/encoder", "mlr/target_encoder"):
        for index in range(len(STRIDES)):
            shape = (FILTERS, CHANNELS if index == 0 else FILTERS, 3, 3)
            state[f"{name}/conv{index}/weight"] = draw.normal(0, 0.3, shape).astype(np.float32)
            state[f"{name}/conv{index}/bias"] = draw.normal(0, 0.1, FILTERS).astype(np.float32)
        latent(name, FILTERS * side**2)
    latent("actor/encoder", FILTERS * side**2)
    heads = {"critic/q1": 1, "critic/q2": 1, "critic_target/q1": 1, "critic_target/q2": 1, "actor/policy": 2 * A}
    for name, outputs in heads.items():
        inputs = D if name == "actor/policy" else D + A
        for index, (wide, narrow) in enumerate(((inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, outputs))):
            linear(f"{name}/fc{index}", wide, narrow)
    for name in ("projector", "target_projector", "predictor"):
        linear(f"mlr/{name}/fc0", D, PROJECTION)
        linear(f"mlr/{name}/fc1", PROJECTION, D)
    linear("mlr/action_embed", A, D)
    for index in range(BLOCKS):
        block = f"mlr/block{index}"
        norm(f"{block}/ln1"), norm(f"{block}/ln2")
        linear(f"{block}/qkv", D, 3 * D, bias=False), linear(f"{block}/proj", D, D)
        linear(f"{block}/mlp0", D, 17), linear(f"{block}/mlp1", 17, D)
    return state | {"size/heads": np.int64(HEADS), "size/strides": np.array(STRIDES)}


def other_batch():
    draw = np.random.default_rng(2)
    pixels, normal = (lambda *shape: draw.integers(0, 256, shape, dtype=np.uint8)), draw.standard_normal
    return {
        "seq_observation": pixels(T, N, CHANNELS, IMAGE, IMAGE),
        "seq_action": draw.uniform(-1, 1, (T, N, A)).astype(np.float32),
        "mask_cells_per_frame": draw.integers(0, 2, (T, 7, 7), dtype=np.uint8),
        "obs": pixels(B, CHANNELS, CROP, CROP),
        "next_obs": pixels(B, CHANNELS, CROP, CROP),
        "action": draw.uniform(-1, 1, (B, A)).astype(np.float32),
        "reward": normal((B, 1)).astype(np.float32),
        "not_done": np.array([[1], [0], [1]], dtype=np.float32),
        "noise_target_policy": normal((B, A)).astype(np.float32),
        "noise_actor_policy": normal((B, A)).astype(np.float32),
        "window_row": np.int64(ROW),
        "window_col": np.int64(COLUMN),
    }


def readme_s_mlr_loss(state, batch):
    """The README's words in a few lines of torch: loss and predictions [T * N, D]."""
    scaled = {name: array * (state["fc_scale"] if array.dtype == np.int8 else 1) for name, array in state.items()}
    values = {name: torch.tensor(array, dtype=torch.float32) for name, array in scaled.items()}

    def layer(name):
        return values[f"{name}/weight"], values[f"{name}/bias"]

    def encode(pixels, name):
        maps = pixels / 255
        for index, stride in enumerate(STRIDES):
            maps = F.conv2d(maps, *layer(f"{name}/conv{index}"), stride).relu()
        return F.layer_norm(F.linear(maps.flatten(1), *layer(f"{name}/fc")), (D,), *layer(f"{name}/ln"))

    def mlp(vectors, name):
        return F.linear(F.linear(vectors, *layer(f"{name}/fc0")).relu(), *layer(f"{name}/fc1"))

    frames = torch.from_numpy(batch["seq_observation"]).float()
    cell = np.arange(IMAGE) * 7 // IMAGE
    kept = torch.from_numpy(1 - batch["mask_cells_per_frame"][:, cell][:, :, cell])[:, None, None]
    window = np.s_[..., ROW : ROW + CROP, COLUMN : COLUMN + CROP]
    masked, whole = (images[window].flatten(0, 1) for images in (frames * kept, frames))
    angle = np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, D, 2) / D)
    positions = torch.from_numpy(np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(T, 1, D)).float()
    states = encode(masked, "critic/encoder").view(T, N, D) + positions
    actions = F.linear(torch.from_numpy(batch["seq_action"]), *layer("mlr/action_embed")) + positions
    tokens = torch.cat([states, actions]).transpose(0, 1)
    for index in range(BLOCKS):
        prefix = f"mlr/block{index}/"
        tokens = plain_block(tokens, {key.removeprefix(prefix): value for key, value in values.items()}, HEADS)
    predicted = mlp(mlp(tokens[:, :T].transpose(0, 1), "mlr/projector"), "mlr/predictor").reshape(T * N, D)
    target = mlp(encode(whole, "mlr/target_encoder"), "mlr/target_projector")
    units = [vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-3) for vectors in (predicted, target)]
    return (units[0] - units[1]).square().sum(dim=1).mean(), predicted


def test_a_dmcontrol_set_of_other_sizes(tmp_path):
    state, batch = other_state(), other_batch()
    write(tmp_path, "state.npz", **state)
    write(tmp_path, "batch.npz", **batch)
    loss, predicted = readme_s_mlr_loss(state, batch)
    write(tmp_path, "e_mlr_loss.npz", **{"other/loss": loss, "other/predicted": predicted})
    checks = list(dmcontrol_e.replay_e(tmp_path))
    assert_all(checks)
    assert len(checks) == 2
    wrong = batch | {"window_col": np.int64(COLUMN - 1)}
    write(tmp_path, "batch.npz", **wrong)
    assert len(errors(dmcontrol_e.replay_e, tmp_path)) == 2


def test_updates_of_other_sizes_ours(tmp_path):
    write(tmp_path, "state.npz", **other_state())
    write(tmp_path, "batch.npz", **other_batch())
    reference = dmcontrol_h.load_reference(tmp_path, {})
    reference.agent._updates = 1

    def sums():
        weights = [parameter.detach().double() for parameter in reference.parameters.values()]
        return [(float(values.sum()), float(values.norm())) for values in weights]

    snapshots, rows = [sums()], []
    for step in range(3):
        metrics = reference.agent.update(reference.batch, step, "update")
        rows.append([float(metrics.get(name, np.nan)) for name in dmcontrol_h.METRICS.values()])
        snapshots.append(sums())
    case = {
        "param_names": list(reference.parameters), "sum_and_l2": snapshots,
        "log": rows, "log_columns": list(dmcontrol_h.METRICS),
    }  # fmt: skip
    write(tmp_path, "h_whole_update.npz", **{f"other/{key}": value for key, value in case.items()})
    checks = list(dmcontrol_h.replay_h(tmp_path))
    assert_all(checks)
    assert np.isnan(np.array(rows)).sum() == 2 * 2  # actor and temperature, without the second update's


# ---- an Atari set of other sizes


CONVOLUTIONS = ((3, 5, 2), (4, 3, 2))  # channels, kernel, stride
STACK, SIDE, WIDTH, UNITS, ACTIONS, ATOMS, STEPS, RETURN = 3, 29, 4 * 6 * 6, 5, 4, 7, 3, 2
LAYERS = {"ln1": "ln1", "qkv": "qkv", "proj": "proj", "ln2": "ln2", "fc1": "mlp0", "fc2": "mlp1"}


def other_weights():
    draw, weights = np.random.default_rng(3), {}

    def linear(name, inputs, outputs, bias=True):
        weights[f"{name}.w"] = draw.normal(0, inputs**-0.5, (outputs, inputs))
        if bias:
            weights[f"{name}.b"] = draw.normal(0, 0.1, outputs)

    wide = STACK
    for number, (channels, kernel, _) in enumerate(CONVOLUTIONS, start=1):
        weights[f"conv{number}.w"] = draw.normal(0, 0.3, (channels, wide, kernel, kernel))
        weights[f"conv{number}.b"] = draw.normal(0, 0.1, channels)
        wide = channels
    sizes = {
        "adv_hidden": (WIDTH, UNITS), "adv_out": (UNITS, ACTIONS * ATOMS),
        "val_hidden": (WIDTH, UNITS), "val_out": (UNITS, ATOMS),
    }  # fmt: skip
    for name, (inputs, outputs) in sizes.items():
        for kind in ("mu", "sigma"):
            weights[f"head.{name}.w_{kind}"] = draw.normal(0, inputs**-0.5, (outputs, inputs))
            weights[f"head.{name}.b_{kind}"] = draw.normal(0, 0.1, outputs)
        for k in range(3):
            weights[f"noise{k}.{name}.raw_in"], weights[f"noise{k}.{name}.raw_out"] = map(
                draw.normal, [0, 0], [1, 1], sizes[name]
            )
    weights["head.adv_bias"] = draw.normal(0, 0.1, ATOMS)
    linear("pred", 2 * UNITS, 2 * UNITS), linear("act_embed", ACTIONS, WIDTH)
    for kind, mean in (("w", 1), ("b", 0)):
        for norm in ("ln1", "ln2"):
            weights[f"blk0.{norm}.{kind}"] = draw.normal(mean, 0.2, WIDTH)
    linear("blk0.qkv", WIDTH, 3 * WIDTH, bias=False), linear("blk0.proj", WIDTH, WIDTH)
    linear("blk0.fc1", WIDTH, 50), linear("blk0.fc2", 50, WIDTH)
    settings = {"size/strides": np.array([2, 2]), "size/heads": np.int64(3), "size/v_min": np.int64(-4)}
    return {name: values.astype(np.float16) for name, values in weights.items()} | settings


def readme_s_atari_loss(weights, d):
    """Loss [T, B], divided branch, and predictions, rows batch-major, by the README's words."""
    values = {name: torch.from_numpy(array).float() for name, array in weights.items() if "size/" not in name}

    def encode(pixels):
        maps = pixels
        for number, (_, _, stride) in enumerate(CONVOLUTIONS, start=1):
            maps = F.conv2d(maps, values[f"conv{number}.w"], values[f"conv{number}.b"], stride).relu()
        maps = maps.flatten(1)
        low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
        return (maps - low) / (high - low)

    def project(latent):
        layers = [values[f"head.{name}.{kind}_mu"] for name in ("val_hidden", "adv_hidden") for kind in "wb"]
        return torch.cat([F.linear(latent, *layers[:2]), F.linear(latent, *layers[2:])], dim=-1)

    frames = torch.from_numpy(d["obs"][:STEPS]).float().flatten(2, 3) / 255
    kept = torch.from_numpy(d["mask"])[:, None]
    batch = frames.shape[1]
    angle = np.arange(STEPS)[:, None] * 10000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    positions = torch.from_numpy(np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(STEPS, WIDTH)).float()
    states = encode((frames * kept).flatten(0, 1)).view(STEPS, batch, WIDTH).transpose(0, 1) + positions
    one_hot = F.one_hot(torch.from_numpy(d["all_action"][1 : STEPS + 1]), ACTIONS).float()
    actions = F.linear(one_hot, values["act_embed.w"], values["act_embed.b"]).transpose(0, 1) + positions
    kinds = {"w": "weight", "b": "bias"}
    block = {
        f"{theirs}/{kinds[kind]}": values[f"blk0.{ours}.{kind}"]
        for ours, theirs in LAYERS.items() for kind in "wb" if f"blk0.{ours}.{kind}" in values
    }  # fmt: skip
    tokens = plain_block(torch.cat([states, actions], dim=1), block, heads=3)
    predicted = F.linear(project(tokens[:, :STEPS]), values["pred.w"], values["pred.b"])
    target = project(encode(frames.flatten(0, 1)).view(STEPS, batch, WIDTH).transpose(0, 1))
    units = [vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-3) for vectors in (predicted, target)]
    return (units[0] - units[1]).square().sum(-1).T, predicted.flatten(0, 1)


def other_clips():
    draw = np.random.default_rng(4)
    return {
        "obs": draw.integers(0, 256, (STEPS + RETURN, 2, STACK, 1, SIDE, SIDE), dtype=np.uint8),
        "all_action": draw.integers(0, ACTIONS, (STEPS + RETURN, 2)),
        "mask": np.repeat(draw.integers(0, 2, (STEPS, 1, SIDE, 1)), SIDE, axis=-1).astype(np.uint8),
    }


def test_an_atari_set_of_other_sizes(tmp_path):
    weights, d = other_weights(), other_clips()
    write(tmp_path, "weights_tiny.npz", **weights)
    loss, predicted = readme_s_atari_loss(weights, d)
    case = {"div.loss_tb": loss, "div.loss_mean": loss.mean(), "div.pred": predicted}
    write(tmp_path, "d_mlr.npz", **d, **case)
    checks = list(atari_d.replay_d(tmp_path))
    assert_all(checks)
    assert len(checks) == 3
    write(tmp_path, "d_mlr.npz", **d, **case, **{"size/heads": np.int64(1)})
    assert len(errors(atari_d.replay_d, tmp_path)) == 3


def test_updates_of_an_atari_set_of_other_sizes_ours(tmp_path):
    d, draw = other_clips(), np.random.default_rng(5)
    write(tmp_path, "weights_tiny.npz", **other_weights())
    write(tmp_path, "d_mlr.npz", **d)
    inputs = {
        "return_n": draw.normal(size=(1, 2)).astype(np.float32),
        "done_n": np.array([[False, True]]),
        "is_weights": np.array([1.0, 0.7], dtype=np.float32),
    }
    reference, agent = atari_f_g.make_agent(tmp_path / "d_mlr.npz", d, STEPS, RETURN, clip_norm=0.5)
    batch, names = atari_f_g.make_batch(d, inputs, RETURN), list(reference.parameters)
    series, sums = {name: [] for name in ("rl_loss", "aux/loss", "kl")}, [reference.parameter_sum_l2(names)]
    norms = {"stem_grad_norm": "grad_norm_encoder_head", "transformer_grad_norm": "aux/grad_norm_decoder"}
    series |= {name: [] for name in norms.values()}
    for _ in range(2):
        kl, metrics = agent.learn(batch)
        for name, values in series.items():
            values.append(kl.numpy() if name == "kl" else float(metrics[name]))
        sums.append(reference.parameter_sum_l2(names))
    case = {name: series[ours] for name, ours in norms.items()}
    case |= {"rl_loss": series["rl_loss"], "mlr_loss": series["aux/loss"], "kl": series["kl"], "param_sum_l2": sums}
    case |= {"pred.b_after": reference.parameters["pred.b"].detach(), "clip": 0.5, "size/clip": 3}
    arrays = {f"clip05.{key}": value for key, value in case.items()}
    write(tmp_path, "g_step.npz", param_names=names, **inputs, **arrays)
    assert_all(atari_f_g.replay_g(tmp_path))
    write(tmp_path, "g_step.npz", param_names=names, **inputs, **arrays | {"clip05.clip": 0.4})
    assert errors(atari_f_g.replay_g, tmp_path)
