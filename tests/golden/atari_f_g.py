"""Reference files f (schedules and counts) and g (whole updates of the small model)."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from atari import config as schema
from atari.agent import RainbowAgent, linear_ramp
from atari.replay import SequenceBatch
from mlr.config import AugmentationConfig, LoopConfig, MaskConfig, MLRConfig
from mlr.training.loop import updates_due
from tests.golden.atari_weights import borrowed_parameters, load_model, sum_l2
from tests.golden.check import Check, exact, relative

SUMS, OUTPUTS = 2e-5, 1e-5
NEW_NOISE = 1  # update u uses noise draw u + 1, the target network starts with draw 0


def replay_f(folder: Path) -> Iterator[Check]:
    """Epsilon and beta by iteration; updates per iteration and the first one that learns."""
    for path in sorted(folder.glob("f_schedules*.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        settings_file = path.with_name(path.name.replace("schedules", "settings")).with_suffix(".json")
        settings = json.loads(settings_file.read_text())
        start, learn = settings["eps_itr_min"], settings["min_itr_learn"]
        agent = settings["config"]["agent"]
        ramp = (agent["eps_init"], agent["eps_final"], start, settings["eps_itr_max"] - start)
        epsilon = [linear_ramp(int(step), *ramp) for step in arrays["epsilon_iteration"]]
        yield relative(path.name, "epsilon", epsilon, arrays["epsilon"], 1e-6)
        ramp = (settings["pri_beta_init"], settings["pri_beta_final"], learn, settings["pri_beta_itr"] - learn)
        beta = [linear_ramp(int(step), *ramp) for step in arrays["beta_iteration"]]
        yield relative(path.name, "beta", beta, arrays["beta_after_iteration"], 1e-6)
        ratio = settings["updates_per_iteration"]
        steps = range(learn + 5)
        updates = [updates_due(step, learn, ratio) for step in steps]
        yield exact(settings_file.name, "updates per iteration", updates, [ratio * (step >= learn) for step in steps])


def replay_g(folder: Path) -> Iterator[Check]:
    """Losses, norms, priorities and weights over consecutive updates on d's batch, for every clipping case."""
    for path in sorted(folder.glob("g_*.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        with np.load(folder / path.name.replace("g_step", "d_mlr")) as file:
            clip = dict(file)
        for case in sorted({key.split(".")[0] for key in arrays if key.endswith(".clip")}):
            values = {key.removeprefix(f"{case}."): value for key, value in arrays.items()}
            yield from replay_case(folder, path.name, case, values, clip)


def replay_case(folder: Path, file: str, case: str, values: dict, clip: dict) -> Iterator[Check]:
    reference, agent = make_agent(folder, float(values["clip"]), clip, values["return_n"].shape[0])
    batch = make_batch(clip, values, agent)
    names = [str(name) for name in values["param_names"]]
    yield relative(file, f"{case} weights before", weights(reference, names), values["param_sum_l2"][0], SUMS)
    measured = {"rl_loss": [], "mlr_loss": [], "grad_norm_encoder_head": [], "grad_norm_decoder": []}
    divergences = []
    for update in range(len(values["rl_loss"])):
        kl, metrics = agent.learn(batch)
        divergences.append(kl.numpy())
        for key, series in measured.items():
            series.append(float(metrics[key]))
        after = weights(reference, names)
        yield relative(file, f"{case} weights after {update + 1}", after, values["param_sum_l2"][update + 1], SUMS)
    for ours, theirs in zip(measured, ("rl_loss", "mlr_loss", "stem_grad_norm", "transformer_grad_norm"), strict=True):
        tolerance = SUMS if "norm" in theirs else OUTPUTS
        yield relative(file, f"{case} {theirs}", measured[ours], values[theirs], tolerance)
    yield relative(file, f"{case} kl", np.stack(divergences), values["kl"], OUTPUTS)
    for key in sorted(values):
        name = key.removesuffix("_after")
        if name != key and name in reference.parameters:
            actual = reference.parameters[name].detach().numpy()
            yield relative(file, f"{case} {name} afterwards", actual, values[key], OUTPUTS)


def make_agent(folder: Path, clip_norm: float, clip: dict, seq_len: int):
    """Our agent with the reference weights, its random draws replaced by the recorded ones."""
    reference = load_model(folder)
    mask = torch.from_numpy(clip["mask"])[:, 0] == 0  # [T, H, W], True = hidden: a grid of single pixels
    settings = dataclasses.replace(reference.agent, clip_norm=clip_norm)
    mlr = MLRConfig(
        seq_len=seq_len,
        weight=1.0,
        tau=1.0,
        masked_scale=255.0,
        distance_scale=1.0,
        norm_floor=1e-3,
        mask=MaskConfig("cube", 0.5, 12, 2, "up"),
        decoder=reference.decoder_config,
    )
    config = schema.AtariConfig(
        **dict.fromkeys((field.name for field in dataclasses.fields(schema.AtariConfig)), None)
        | {
            "seed": 0,
            "aux": "mlr",
            "environment": schema.EnvironmentConfig(mask.shape[-1], clip["obs"].shape[2], 4, 30, 27000, 0.0, True),
            "agent": settings,
            "replay": schema.ReplayConfig(100, 0.5, 0.4, 1.0, 0, 1, 1.0, 1e-5),
            "augmentation": AugmentationConfig("slice", 4, 0.05),
            "mlr": mlr,
            "loop": LoopConfig("overlapped", 0, 1.0),
        }
    )
    agent = RainbowAgent(config, reference.head.actions, torch.device("cpu"))
    owned = agent.auxiliary.owned
    reference.encoder, reference.head = agent.encoder, agent.head
    reference.predictor, reference.action_embedding = owned["predictor"], owned["action_embedding"]
    for name, parameter in borrowed_parameters(reference):
        reference.adopt(name, parameter)
    reference.fill_blocks(owned["decoder"].blocks)
    agent.auxiliary.update_targets()  # momentum copies start equal
    draws = iter(reference.noise[k] for k in sorted(reference.noise) if k >= NEW_NOISE)
    agent._noise.copy_(reference.noise[0])
    agent.head.draw_noise = lambda generator, device: next(draws)
    agent._augment = lambda pixels, generator: pixels.float()
    agent.auxiliary.augment_masked = agent.auxiliary.augment_target = lambda frames: frames.float()
    agent.auxiliary.mask = lambda: mask.unsqueeze(0)
    return reference, agent


def make_batch(clip: dict, values: dict, agent: RainbowAgent) -> SequenceBatch:
    """The recorded clip: entry i of `all_action` was taken before observation i."""
    steps, n_step = values["return_n"].shape[0], agent.config.agent.n_step
    frames = torch.from_numpy(clip["obs"]).flatten(2, 3)  # [time, B, C, H, W]
    actions = torch.from_numpy(clip["all_action"])[1:]
    return SequenceBatch(
        obs=frames[0],
        next_obs=frames[n_step],
        action=actions[0],
        returns=torch.from_numpy(values["return_n"][0]),
        done=torch.from_numpy(values["done_n"][0]),
        weights=torch.from_numpy(values["is_weights"]),
        indices=torch.arange(frames.shape[1]),
        frames=frames[:steps],
        actions=actions[:steps],
    )


def weights(reference, names: list[str]) -> np.ndarray:
    """(sum, L2) of every named parameter; the advantage bias, which we do not build, never moves."""
    fixed = {name: torch.from_numpy(array.astype(np.float32)) for name, array in reference.arrays.items()}
    return np.array([sum_l2(reference.parameters.get(name, fixed[name])) for name in names])
