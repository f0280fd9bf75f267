"""Reference files f (schedules and counts) and g (whole updates of the small model).

f_settings.json is compared in its schedules and counts; the rest of it is a record.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from atari.agent import RainbowAgent, linear_ramp, make_networks
from atari.config import ReplayConfig, map_sides
from atari.replay import SequenceBatch
from auxiliaries.mlr import Reconstruction
from harness.config import HostFacts, any_task
from harness.schedule import ReplayRatio
from mlr.augmentation import Augmentation
from mlr.config import AugmentationConfig
from mlr.decoder import Decoder
from recipes import COMMANDS
from tests.golden.atari_d import RELEASED_SCALE, augmentation, hidden_cells, make_clip, mlr_config, shift
from tests.golden.atari_weights import agent_config, beside, decoder_config, fill_model, load_arrays
from tests.golden.check import Arrays, Check, by_case, exact, load, relative, setting
from tests.golden.views import recorded_views

SUMS, OUTPUTS = 2e-5, 1e-5
VIEWS_OF_RL = {
    "augmentation_rl": ("obs",),
    "augmentation_next_target": ("next_target", "next"),
    "augmentation_next_online": ("next_online", "next"),
}


def replay_f(folder: Path) -> Iterator[Check]:
    """Epsilon and beta by iteration; updates per iteration, the first one that learns, clipped tensors."""
    for path in sorted(folder.glob("f_schedules*.npz")):
        arrays = load(path)
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
        yield relative(path.name, "beta_initial", linear_ramp(0, *ramp), arrays["beta_initial"], 1e-6)
        ratio = settings["updates_per_iteration"]
        steps = range(learn + 5)
        updates = [len(ReplayRatio(learn, ratio).due(step)) for step in steps]
        yield exact(settings_file.name, "updates per iteration", updates, [ratio * (step >= learn) for step in steps])
        counts = [len(module_parameters) for module_parameters in paper_sized_parameters()]
        names = ("stem_parameter_tensors", "transformer_parameter_tensors")
        yield exact(settings_file.name, "clipped tensors", counts, [settings[name] for name in names])


def paper_sized_parameters() -> tuple[list, list]:
    """The tensors that are clipped together, encoder with head and decoder blocks, at the paper's size.

    The reference's head has one more, the advantage's bias by atom, which cancels in the dueling mean.
    """
    config = COMMANDS["atari"].resolve(["game=pong"])
    environment = config.environment
    with torch.device("meta"):
        encoder, head = make_networks(config.agent, environment.frame_stack, environment.image_size, actions=6)
        decoder = Decoder(encoder.latent_dim, config.mlr.seq_len, config.mlr.decoder)
        advantage_bias = torch.empty(config.agent.atoms)
    return [*encoder.parameters(), *head.parameters(), advantage_bias], list(decoder.parameters())


def replay_g(folder: Path) -> Iterator[Check]:
    """Losses, norms, priorities and weights over consecutive updates on d's batch, for every clipping case."""
    for path in sorted(folder.glob("g_*.npz")):
        arrays, recorded = load(path), load(beside(path, "d"))
        for case, own in by_case(arrays, "clip", "rl_loss").items():
            yield from replay_case(path, case.rstrip("./"), own, recorded)


def replay_case(path: Path, case: str, values: Arrays, recorded: Arrays) -> Iterator[Check]:
    file, steps = path.name, len(recorded["mask"])
    n_step = int(setting(values, "n_step", len(recorded["obs"]) - steps))
    reference, agent = make_agent(path, recorded | values, steps, n_step, float(values["clip"]))
    batch = make_batch(recorded, values, n_step)
    names = values["param_names"]
    yield relative(file, f"{case} weights before", reference.parameter_sum_l2(names), values["param_sum_l2"][0], SUMS)
    measured = {"rl_loss": [], "aux/loss": [], "grad_norm_encoder_head": [], "aux/grad_norm_decoder": []}
    divergences = []
    for update in range(len(values["rl_loss"])):
        reference.update = update
        kl, metrics = agent.learn(batch)
        divergences.append(kl.numpy())
        for key, series in measured.items():
            series.append(float(metrics[key]))
        after = reference.parameter_sum_l2(names)
        yield relative(file, f"{case} weights after {update + 1}", after, values["param_sum_l2"][update + 1], SUMS)
    for ours, theirs in zip(measured, ("rl_loss", "mlr_loss", "stem_grad_norm", "transformer_grad_norm"), strict=True):
        tolerance = SUMS if "norm" in theirs else OUTPUTS
        yield relative(file, f"{case} {theirs}", measured[ours], values[theirs], tolerance)
    yield relative(file, f"{case} kl", np.stack(divergences), values["kl"], OUTPUTS)
    for name in [name for name in reference.arrays if f"{name}_after" in values]:
        parameter = reference.parameters.get(name, torch.from_numpy(reference.arrays[name]))
        yield relative(file, f"{case} {name} afterwards", parameter.detach(), values[f"{name}_after"], OUTPUTS)


def make_agent(path: Path, recorded: Arrays, seq_len: int, n_step: int, clip_norm: float):
    """Our agent with the reference weights, and the recorded values in place of its random draws."""
    arrays = load_arrays(path)
    settings = dataclasses.replace(agent_config(arrays), n_step=n_step, clip_norm=clip_norm)
    size, stack = recorded["obs"].shape[-1], recorded["obs"].shape[2]
    replay = ReplayConfig(
        capacity=100,
        window=seq_len,
        alpha=0.5,
        beta_initial=0.4,
        beta_final=1.0,
        beta_start=0,
        beta_end=1,
        default_priority=1.0,
        priority_eps=1e-5,
        priority="kl",
        new_priority="default",
        stratified=False,
    )
    sides = map_sides(settings.encoder, size)
    unused = AugmentationConfig(crop="slice", pad=4, intensity=0.05, intensity_clamp=2.0, extra=[])
    agent = RainbowAgent(
        settings,
        replay,
        HostFacts(
            image_size=size,
            latent_dim=settings.encoder.channels[-1] * sides[-1] ** 2,
            latent_shape=(settings.encoder.channels[-1], sides[-1], sides[-1]),
            map_sides=sides,
            map_channels=settings.encoder.channels,
            batch_size=settings.batch_size,
            window=seq_len,
            action_repeat=4,
            discrete=True,
            require_task=any_task,
        ),
        resets=None,
        frame_stack=stack,
        actions=arrays["act_embed.w"].shape[1],
        augment=Augmentation(unused, size, size),
        make_auxiliary=partial(Reconstruction, mlr_config(decoder_config(arrays), seq_len, RELEASED_SCALE)),
        seed=0,
        precision="fp32",
        device=torch.device("cpu"),
    )
    objective = agent.auxiliary.objective
    reference = fill_model(
        arrays,
        encoder=agent.encoder,
        head=agent.head,
        predictor=objective.owned["predictor"],
        action_embedding=objective.owned["action_embedding"],
    )
    reference.fill_blocks(objective.owned["decoder"].blocks)
    objective.update_targets()  # momentum copies start equal
    hidden = hidden_cells(recorded["mask"])
    objective.mask = lambda: hidden
    masked, target = (augmentation(recorded, size, whose) for whose in ("masked", "target"))
    objective.augment_masked = lambda frames: masked(frames, reference.update)
    objective.augment_target = lambda frames: target(frames, reference.update)
    views = {
        purpose: recorded_views(recorded, whose, shift(recorded, size), None, batch_major=True)
        for purpose, whose in VIEWS_OF_RL.items()
    }
    agent._augmented = lambda frames, *names: torch.cat([views[name](frames, reference.update) for name in names])
    first, *later = (reference.noise[k] for k in sorted(reference.noise))
    agent._noise.copy_(first)  # of the target network in update 0; update u draws number u + 1
    draws = iter(later)
    agent.head.draw_noise = lambda generator, device: next(draws)
    return reference, agent


def make_batch(recorded: Arrays, values: Arrays, n_step: int) -> SequenceBatch:
    clip = make_clip(recorded)
    frames = torch.from_numpy(recorded["obs"]).flatten(2, 3)  # stack and channel are one axis here
    return SequenceBatch(
        obs=frames[0],
        next_obs=frames[n_step],
        action=clip.actions[0],
        returns=torch.from_numpy(values["return_n"][0]),
        done=torch.from_numpy(values["done_n"][0]),
        weights=torch.from_numpy(values["is_weights"]),
        indices=torch.arange(frames.shape[1]),
        frames=clip.frames,
        actions=clip.actions,
    )
