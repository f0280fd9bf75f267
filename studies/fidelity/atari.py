"""Effects of the rows of docs/fidelity.md on Atari, measured."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from statistics import mean

import torch
from torch import Generator, Tensor

from atari import losses
from atari.games import PAPER_GAMES
from atari.replay import SequenceBatch, SequenceReplay
from auxiliaries.slot import Reads
from mlr.masking import sample_mask
from studies.fidelity import rows
from studies.fidelity.effects import Effect, number
from studies.fidelity.lab import Gradient, Lab, Sizes, cosine, flat_gradient, norm

SUITE = "atari"
TASK = "game=pong"
NO_CLIP = "agent.clip_norm=1e9"
CLIPPED = ("encoder and head", "decoder blocks")


def make_lab(overrides: Sequence[str], sizes: Sizes) -> Lab:
    return Lab(SUITE, draw_windows, [TASK, *overrides], sizes)


def draw_windows(replay: SequenceReplay, count: int, generator: Generator) -> SequenceBatch:
    return replay.sample(count, generator, 0.0, Reads("windows", replay.config.window, ("frames", "actions")))


@cache
def rl_gradient(lab: Lab, seed: int, *overrides: str) -> Gradient:
    agent = lab.agent(seed, "auxiliary=none", NO_CLIP, *overrides)
    _, metrics = agent.learn(lab.clips(seed))
    return Gradient(float(metrics["rl_loss"]), flat_gradient(agent.encoder), norm(agent.trained_parameters()))


def masked_scale(lab: Lab) -> list[Effect]:
    """F1."""
    released, paper = zip(*lab.mlr_gradients("mlr.masked_scale"), strict=True)
    cosines = number(*(cosine(a.encoder, b.encoder) for a, b in zip(released, paper, strict=True)))
    both = [number(*(gradient.loss for gradient in side)) for side in (released, paper)]
    norms = [number(*(gradient.encoder.norm() for gradient in side)) for side in (released, paper)]
    return [
        Effect("F1", SUITE, "L_mlr", *both, sample=lab.batches),
        Effect("F1", SUITE, "norm of the encoder's gradient of L_mlr", *norms, sample=lab.batches),
        Effect("F1", SUITE, "cosine of the encoder's gradients of L_mlr", compared=cosines, sample=lab.batches),
    ]


def rounding(lab: Lab) -> list[Effect]:
    """F2."""
    shares = []
    for config in (lab.config(), lab.config(lab.paper("mlr.mask.rounding"))):
        mlr, generator = config.mlr, Generator().manual_seed(1)
        mask = sample_mask(mlr.mask, mlr.seq_len, config.environment.image_size, generator, "cpu")
        shares.append(number(mask.float().mean()))
    cosines = number(*(cosine(a.encoder, b.encoder) for a, b in lab.mlr_gradients("mlr.mask.rounding")))
    quantity = "cosine of the encoder's gradients of L_mlr, same permutations"
    return [
        Effect("F2", SUITE, "hidden share of the pixels", *shares, sample="every mask"),
        Effect("F2", SUITE, quantity, compared=cosines, sample=lab.batches),
    ]


def initial_noise(lab: Lab) -> list[Effect]:
    """F3."""
    settings = ((), (lab.paper("agent.noisy_sigma0"),))
    shares = [number(*(changed_by_noise(lab, seed, *setting) for seed in lab.seeds)) for setting in settings]
    sample = f"{lab.config().task}, {lab.sizes.seeds} seeds x {lab.sizes.draws} decisions"
    return [Effect("F3", SUITE, "share of greedy actions that the noise changes", *shares, sample=sample)]


@torch.no_grad()
def changed_by_noise(lab: Lab, seed: int, *overrides: str) -> float:
    agent = lab.agent(seed, "auxiliary=none", *overrides)
    config = agent.config
    support = losses.support(config.v_min, config.v_max, config.atoms, agent.device)
    latent, generator = agent.encoder(lab.clips(seed).frames.flatten(0, 1)), Generator().manual_seed(seed)

    def greedy(noise: Tensor | None) -> Tensor:
        return losses.expected_value(agent.head(latent, noise).softmax(-1), support).argmax(-1)

    without = greedy(None)
    rounds = -(-lab.sizes.draws // len(latent))
    noisy = (greedy(agent.head.draw_noise(generator, agent.device)) for _ in range(rounds))
    return mean(float((actions != without).float().mean()) for actions in noisy)


def loss_weight(lab: Lab) -> list[Effect]:
    """F4: what the factor 5 of Pong and Up N Down changes."""
    pairs = [(rl_gradient(lab, seed), lab.mlr_gradient(seed)) for seed in lab.seeds]
    largest = max(lab.config().mlr.weight_by_task.values())
    totals = [(rl.encoder + mlr.encoder, rl.encoder + largest * mlr.encoder) for rl, mlr in pairs]
    both = [number(*(gradient.encoder.norm() for gradient in side)) for side in zip(*pairs, strict=True)]
    names = ("L_rl", "L_mlr")
    norms = [
        Effect("F4", SUITE, f"norm of the encoder's gradient of {name}", value, value, sample=lab.batches)
        for name, value in zip(names, both, strict=True)
    ]
    quantity = f"cosine of the encoder's whole gradients, lambda {largest:g} and 1"
    cosines = number(*(cosine(*pair) for pair in totals))
    return [*norms, Effect("F4", SUITE, quantity, compared=cosines, sample=lab.batches)]


def distance(lab: Lab) -> list[Effect]:
    """F5, and what it means beside the RL loss."""
    totals = []
    for seed, (released, paper) in zip(lab.seeds, lab.mlr_gradients("mlr.distance_scale"), strict=True):
        rl, weight = rl_gradient(lab, seed).encoder, lab.config().mlr.weight
        totals.append(cosine(rl + weight * released.encoder, rl + weight * paper.encoder))
    quantity = f"cosine of the encoder's whole gradients, lambda {lab.config().mlr.weight:g}"
    whole = Effect("F5", SUITE, quantity, compared=number(*totals), sample=lab.batches)
    return [*rows.distance(lab), whole]


def bootstrap(lab: Lab) -> list[Effect]:
    """F6: transitions that one setting bootstraps and the other does not."""
    shares = {game: wrong_bootstraps(lab.play_task(f"game={game}")) for game in PAPER_GAMES}
    largest = max(shares, key=shares.get)
    quantity = "share of transitions that bootstrap across an end"
    listed = ", ".join(f"{game} {number(share)}" for game, share in shares.items())
    sample = f"{lab.sizes.counted_steps} random steps a game"
    return [
        Effect("F6", SUITE, f"{quantity}, mean of {len(shares)} games", number(mean(shares.values())), "0", "", sample),
        Effect("F6", SUITE, f"{quantity}, {largest}", number(shares[largest]), "0", "", sample),
        Effect("F6", SUITE, f"{quantity}, by game", listed, "0", "", sample),
    ]


def wrong_bootstraps(replay: SequenceReplay) -> float:
    n = replay.agent.n_step
    starts = torch.arange(replay.history, replay.steps_stored - replay.lag)
    done = replay.windows(starts, n).done  # [n, starts]
    return float((done.any(0) & ~done[0]).float().mean())


def clipping(lab: Lab) -> list[Effect]:
    """F15, on the first updates of a training on random play."""
    lab = lab.small
    agent, config = lab.agent(1), lab.config()
    limit = config.agent.clip_norm
    norms: dict[str, list[float]] = {name: [] for name in (*CLIPPED, "predictor and action embedding", "all")}
    for _ in range(lab.sizes.updates):
        metrics = agent.update(lab.replay, config.loop.learning_starts, "update")
        owned = agent.auxiliary.owned
        unclipped = norm([*owned["predictor"].parameters(), *owned["action_embedding"].parameters()])
        parts = [float(metrics["grad_norm_encoder_head"]), float(metrics["aux/grad_norm_decoder"]), unclipped]
        whole = torch.tensor(parts).norm()
        for values, value in zip(norms.values(), (*parts, whole), strict=True):
            values.append(float(value))
    sample = f"{config.task}, {lab.sizes.updates} updates, preset {config.preset}, lambda {config.mlr.weight:g}"
    over = {name: number(mean(value > limit for value in values)) for name, values in norms.items()}
    typical = [
        Effect("F15", SUITE, f"norm of the gradient, {name}", number(*values), sample=sample)
        for name, values in norms.items()
    ]
    clipped = [
        Effect("F15", SUITE, f"share of updates above {limit:g}, {name}", over[name], over["all"], sample=sample)
        for name in CLIPPED
    ]
    return typical + clipped


def crop(lab: Lab) -> list[Effect]:
    """F9, which on Atari also changes the RL loss."""
    paper = lab.paper("augmentation.crop")
    cosines = [cosine(rl_gradient(lab, seed).encoder, rl_gradient(lab, seed, paper).encoder) for seed in lab.seeds]
    quantity = "cosine of the encoder's gradients of L_rl"
    return [
        *rows.crop(lab, lab.config().environment.image_size),
        Effect("F9", SUITE, quantity, compared=number(*cosines), sample=lab.batches),
    ]


MEASUREMENTS: dict[str, Callable[[Lab], list[Effect]]] = {
    "F1": masked_scale,
    "F2": rounding,
    "F3": initial_noise,
    "F4": loss_weight,
    "F5": distance,
    "F6": bootstrap,
    "F9": crop,
    "F13": partial(rows.momentum, every=1, before_step=True),
    "F15": clipping,
    "F16": rows.mask_counts,
}
