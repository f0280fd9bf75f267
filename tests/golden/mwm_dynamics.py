"""Replays e to g of a folder of MWM reference files: pool and unpool, the RSSM, and the whole dynamics loss."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mwm.batch import WindowBatch
from mwm.config import KLConfig
from mwm.dynamics import RSSM, Dynamics, States, divergence, entropy, kl_loss, sample
from mwm.tokens import Pool, Unpool
from tests.golden.check import Arrays, Check, load, relative
from tests.golden.mwm_autoencoder import FORWARD, GRADIENT, gradient_checks, make_autoencoder
from tests.golden.mwm_weights import Recorded, chosen, fill, latent_draws, make_section, pictures_of, read_sizes


def tensors(arrays: Arrays, *names: str) -> list[Tensor]:
    return [torch.from_numpy(np.asarray(arrays[name])) for name in names]


@torch.no_grad()
def replay_e(folder: Path) -> Iterator[Check]:
    """Tokens to an embedding, and a state to tokens."""
    sizes = read_sizes(folder)
    section, grid = make_section(sizes), round(sizes["tokens"] ** 0.5)
    for path in sorted(folder.glob("e_*.npz")):
        arrays, file = load(path), path.name
        features, state = tensors(arrays, "features", "state")
        pool = fill(Pool(section.pool, features.shape[-1], grid), arrays, "pool")
        yield relative(file, "features_summary_last", features.roll(-1, 1), arrays["features_summary_last"], FORWARD)
        yield relative(file, "tokens", pool.tokens(features), arrays["tokens"], FORWARD)
        yield relative(file, "embedding", pool(features), arrays["embedding"], FORWARD)
        unpool = fill(Unpool(section.unpool, state.shape[-1], features.shape[-1], grid), arrays, "unpool")
        unpooled = unpool(state)
        yield relative(file, "unpooled", unpooled, arrays["unpooled"], FORWARD)
        yield relative(file, "unpooled_summary_last", unpooled.roll(-1, 1), arrays["unpooled_summary_last"], FORWARD)


def replay_f(folder: Path) -> Iterator[Check]:
    """The RSSM over windows with a restart inside, imagined steps, modes, KL terms and their gradients."""
    section = make_section(read_sizes(folder))
    for path in sorted(folder.glob("f_*.npz")):
        arrays, file = load(path), path.name
        rssm = fill(RSSM(section.rssm, arrays["embedding"].shape[-1]), arrays, "rssm")
        with torch.no_grad():
            yield from observe_checks(file, rssm, arrays)
            yield from imagine_checks(file, rssm, arrays)
            yield from mode_checks(file, rssm, arrays)
        yield from kl_checks(file, section.kl, arrays)


def observe_checks(file: str, rssm: RSSM, arrays: Arrays) -> Iterator[Check]:
    embedding, action, first = tensors(arrays, "embedding", "action", "is_first")
    draws = latent_draws(arrays["draws_post"].swapaxes(0, 1), rssm.config.classes)
    observed = rssm.observe(embedding, action, first, draws)
    shape = arrays["post_stoch"].shape
    prior_noise = chosen(arrays["draws_prior"], rssm.config.classes)
    prior_stoch = sample(observed.prior, Recorded(prior_noise)).view(shape)
    results = {
        "post_logit": observed.posterior,
        "post_stoch": observed.states.stoch.view(shape),
        "post_deter": observed.states.deter,
        "prior_logit": observed.prior,
        "prior_stoch": prior_stoch,
        "prior_deter": observed.states.deter,
        "feature": observed.states.feature,
    }
    for name, value in results.items():
        yield relative(file, name, value, arrays[name], FORWARD)


def imagine_checks(file: str, rssm: RSSM, arrays: Arrays) -> Iterator[Check]:
    """Imagined steps follow the last observed state."""
    stoch, deter, action = tensors(arrays, "post_stoch", "post_deter", "imagine_action")
    states, draws = (
        States(stoch[:, -1].flatten(1), deter[:, -1]),
        latent_draws(arrays["imagine_draws"].swapaxes(0, 1), rssm.config.classes),
    )
    for step in range(action.shape[1]):
        states, logits = rssm.imagine_step(states, action[:, step], draws)
        yield relative(file, f"imagine_logit {step}", logits, arrays["imagine_logit"][:, step], FORWARD)
        one_hot = states.stoch.view_as(logits)
        yield relative(file, f"imagine_stoch {step}", one_hot, arrays["imagine_stoch"][:, step], FORWARD)
        yield relative(file, f"imagine_deter {step}", states.deter, arrays["imagine_deter"][:, step], FORWARD)


def mode_checks(file: str, rssm: RSSM, arrays: Arrays) -> Iterator[Check]:
    """A step without draws takes the likeliest classes; first action and picture follow the last observed state."""
    embedding, action = (x[:, 0] for x in tensors(arrays, "embedding", "action"))
    stoch, deter = (x[:, -1] for x in tensors(arrays, "post_stoch", "post_deter"))

    def no_noise(shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape)

    goes_on = torch.zeros(len(action), dtype=torch.bool)
    states, logits = rssm.observe_step(States(stoch.flatten(1), deter), action, embedding, goes_on, no_noise)
    prior = rssm.prior(states.deter)
    results = {
        "mode_post_stoch": states.stoch.view_as(logits),
        "mode_post_deter": states.deter,
        "mode_post_logit": logits,
        "mode_prior_stoch": sample(prior, no_noise).view_as(prior),
        "mode_prior_deter": states.deter,
        "mode_prior_logit": prior,
    }
    for name, value in results.items():
        yield relative(file, name, value, arrays[name], FORWARD)


def kl_checks(file: str, config: KLConfig, arrays: Arrays) -> Iterator[Check]:
    posterior, prior = (logits.requires_grad_() for logits in tensors(arrays, "post_logit", "prior_logit"))
    yield relative(file, "kl", divergence(posterior, prior).detach(), arrays["kl"], FORWARD)
    yield relative(file, "entropy_post", entropy(posterior).detach(), arrays["entropy_post"], FORWARD)
    yield relative(file, "entropy_prior", entropy(prior).detach(), arrays["entropy_prior"], FORWARD)
    cases = (
        ("free001_scale1", 0.01, 1.0),
        ("free01_scale01", 0.1, 0.1),
        ("free_median", float(arrays["free_median"]), 1.0),
    )
    for name, free, scale in cases:
        loss, _ = kl_loss(posterior, prior, replace(config, free=free, scale=scale))
        yield relative(file, f"kl_loss_{name}", loss.detach(), arrays[f"kl_loss_{name}"], FORWARD)
    loss.backward()
    yield relative(file, "gradient of the posterior", posterior.grad, arrays["kl_free_median_grad_post"], GRADIENT)
    yield relative(file, "gradient of the prior", prior.grad, arrays["kl_free_median_grad_prior"], GRADIENT)


def replay_g(folder: Path) -> Iterator[Check]:
    """The whole dynamics loss on pictures, with all gradients; the autoencoder gets none."""
    sizes = read_sizes(folder)
    for path in sorted(folder.glob("g_*.npz")):
        arrays, file = load(path), path.name
        autoencoder = make_autoencoder(sizes, arrays)
        model = make_dynamics(sizes, arrays, file)
        batch = window_batch(arrays)
        features = frozen_features(autoencoder, batch)
        draws = latent_draws(arrays["draws_post"].swapaxes(0, 1), sizes["rssm"]["classes"])
        loss, observed, metrics = model.loss(features, batch, draws)
        loss.backward()
        embedding = model.embed(features, len(batch.actions)).detach()
        kl = divergence(observed.posterior, observed.prior).detach()
        results = {
            "loss": loss.detach(),
            "embedding": embedding,
            "feature": observed.states.feature.detach().flatten(0, 1).unsqueeze(1),
            "kl": kl,
            "post_logit": observed.posterior.detach(),
            "prior_logit": observed.prior.detach(),
        }
        for name, value in results.items():
            yield relative(file, name, value, arrays[name], FORWARD)
        yield from metric_checks(file, metrics, arrays, "loss_")
        for name in ("pool", "rssm", "unpool", "reward", "discount"):
            if getattr(model, name) is not None:
                yield from gradient_checks(file, getattr(model, name), arrays, name)
        touched = [weight for weight in autoencoder.parameters() if weight.grad is not None]
        yield relative(file, "autoencoder weights with a gradient", len(touched), 0, 0)


METRICS = {
    "kl_loss": "kl_loss",
    "reward_loss": "reward_loss",
    "token_loss": "feature_loss",
    "discount_loss": "discount_loss",
    "kl": "model_kl",
    "prior_entropy": "prior_ent",
    "posterior_entropy": "post_ent",
}


def metric_checks(file: str, metrics: dict[str, Tensor], arrays: Arrays, prefix: str, suffix: str = ""):
    for name, value in metrics.items():
        key = f"{prefix}{METRICS[name]}{suffix}"
        yield relative(file, key, value.detach(), arrays[key], FORWARD)


def make_dynamics(sizes: dict, arrays: Arrays, file: str, mark: str = "w") -> Dynamics:
    """The dynamics of the weights `mark:` of a file, with the KL terms of the suite in its name."""
    discount = any(key.startswith(f"{mark}:discount/") for key in arrays)
    section = make_section(sizes, discount_head=discount)
    if "rlbench" in file:
        section = replace(section, kl=replace(section.kl, free=0.1, scale=0.1))
    model = Dynamics(section, sizes["picture"])
    for name in ("pool", "rssm", "unpool", "reward", "discount"):
        if getattr(model, name) is not None and any(key.startswith(f"{mark}:{name}/") for key in arrays):
            fill(getattr(model, name), arrays, name, mark)
    return model


def window_batch(arrays: Arrays, prefix: str = "", suffix: str = "") -> WindowBatch:
    names = ("action", "reward", "is_first", "is_terminal")
    return WindowBatch(
        pictures_of(arrays[f"{prefix}image{suffix}"]), *tensors(arrays, *(f"{prefix}{name}{suffix}" for name in names))
    )


@torch.no_grad()
def frozen_features(autoencoder, batch: WindowBatch) -> Tensor:
    return autoencoder.features(batch.pictures.flatten(0, 1))
