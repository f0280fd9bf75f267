"""Effects of the rows of docs/fidelity.md on DMControl, measured."""

from collections.abc import Callable, Sequence
from functools import cache
from statistics import mean

import torch
from torch import Generator, Tensor, nn

from auxiliaries.slot import Reads, Shared, whole_loss
from dmcontrol import losses
from dmcontrol.agent import SACAgent
from dmcontrol.config import DMControlConfig
from dmcontrol.networks import CentreCrop
from dmcontrol.replay import TransitionReplay, WindowBatch
from harness.schedule import ReplayRatio
from mlr.augmentation import RandomCrop, intensity_factor
from studies.fidelity import rows
from studies.fidelity.effects import Effect, number
from studies.fidelity.lab import Lab, Sizes, cosine, flat_gradient, norm

SUITE = "dmcontrol"
TASK = "task=ball_in_cup_catch"  # one of the six without settings of its own
LAST_EVALUATION = 95_000  # environment steps, by the released README's command
REPEATS = (8, 4, 2)  # the six tasks have these


def make_lab(overrides: Sequence[str], sizes: Sizes) -> Lab:
    return Lab(SUITE, draw_windows, [TASK, *overrides], sizes)


def draw_windows(replay: TransitionReplay, count: int, generator: Generator) -> WindowBatch:
    return replay.windows(count, generator, Reads("windows", replay.window, ("frames", "actions")))


def distance(lab: Lab) -> list[Effect]:
    """F5: the auxiliary's own Adam forgets a factor, and so does the clip above its limit."""
    limit = lab.config().aux_optimizer.clip_norm
    pairs = zip(*lab.mlr_gradients("mlr.distance_scale"), strict=True)
    clipped = [number(*(min(gradient.norm, limit) for gradient in side)) for side in pairs]
    quantity = "norm of its gradient after clipping"
    return [*rows.distance(lab), Effect("F5", SUITE, quantity, *clipped, sample=lab.batches)]


def initial_weights(lab: Lab) -> list[Effect]:
    """F7."""
    settings = ((), (lab.paper("aux_networks.redraw"),))
    found = [[first_update(lab, seed, *setting) for seed in lab.seeds] for setting in settings]
    return [
        Effect("F7", SUITE, name, *(number(*(seed[name] for seed in side)) for side in found), sample=lab.batches)
        for name in found[0][0]
    ]


def first_update(lab: Lab, seed: int, *overrides: str) -> dict[str, float]:
    agent, clips, lengths = lab.agent(seed, *overrides), lab.clips(seed), []
    predictor = agent.auxiliary.owned["predictor"]
    predictor.register_forward_hook(lambda module, inputs, output: lengths.append(output.norm(dim=-1).mean().item()))
    loss = whole_loss(agent.auxiliary, clips, Shared())[0].mean()
    loss.backward()
    pixels = CentreCrop(agent.config.crop_size)(clips.frames.flatten(0, 1))
    with torch.no_grad():
        online = agent.encoder(pixels)
        copies = {"momentum": agent.auxiliary.targets["encoder"], "critic's target": agent.target_encoder}
        cosines = {
            f"cosine of the latents, online and {name} encoder": torch.cosine_similarity(online, copy(pixels)).mean()
            for name, copy in copies.items()
        }
    return {
        "L_mlr": loss.item(),
        "norm of a prediction": lengths[0],
        "norm of the gradient before clipping": norm(agent.trained_parameters()),
        **cosines,
    }


def crop_offsets(lab: Lab) -> list[Effect]:
    """F10."""
    released, paper = lab.config(), lab.config(lab.paper("agent.rl_crop_last_offset"))
    found = [offset_statistics(config, lab.sizes.draws) for config in (released, paper)]
    sample = f"{lab.sizes.draws} draws"
    return [Effect("F10", SUITE, name, *(number(side[name]) for side in found), sample=sample) for name in found[0]]


def offset_statistics(config: DMControlConfig, draws: int) -> dict[str, float]:
    size, crop_size = config.environment.image_size, config.agent.crop_size
    crop = RandomCrop(size, crop_size, pad=0, mode="slice", last_offset=config.agent.rl_crop_last_offset)
    offsets = crop.draw(draws, Generator().manual_seed(1), "cpu")
    shown = min(int(offsets.max()) + crop_size, size)
    return {
        "share of the crop windows never drawn": 1 - len(offsets.unique(dim=0)) / (size - crop_size + 1) ** 2,
        "share of the pixels never seen by the RL losses": 1 - (shown / size) ** 2,
        "mean offset, pixels": offsets.float().mean().item(),
    }


def last_evaluation(lab: Lab) -> list[Effect]:
    """F11."""
    shares = []
    for repeat in REPEATS:
        config = lab.config(f"environment.action_repeat={repeat}", "budget=100k", "eval_every_env_steps=0")
        steps = (config.env_steps, LAST_EVALUATION)
        schedule = ReplayRatio(config.loop.learning_starts, config.loop.replay_ratio)
        updates = [schedule.total(n // repeat) for n in steps]
        shares.append(1 - updates[1] / updates[0])
    quantity = f"share of the updates after {LAST_EVALUATION} of 100000 environment steps"
    return [Effect("F11", SUITE, quantity, number(*shares), "0", sample=f"action repeats {REPEATS}, counted")]


def joint_step(lab: Lab) -> list[Effect]:
    """F12: the encoder's first step by two Adams, and by one on the sum of the losses."""
    effects, sample = [], lab.batches
    for name, overrides in {"at the start": (), "after the warm-up": ("aux_optimizer.warmup_start=1",)}.items():
        steps = [first_steps(lab, seed, *overrides) for seed in lab.seeds]
        ratio = number(*(float(step["auxiliary"].norm() / step["critic"].norm()) for step in steps))
        cosines = number(*(cosine(step["critic"] + step["auxiliary"], step["joint"]) for step in steps))
        effects += [
            Effect("F12", SUITE, f"length of the MLR step over the critic's, {name}", ratio, sample=sample),
            Effect("F12", SUITE, f"cosine of the steps by two Adams and by one, {name}", "", "", cosines, sample),
        ]
    return effects


def first_steps(lab: Lab, seed: int, *overrides: str) -> dict[str, Tensor]:
    """Changes of the encoder's weights, flat: by each of its optimisers, and by one Adam on the sum of the losses."""
    batches = (f"agent.batch_size={transitions(lab)}", f"aux_optimizer.batch_size={lab.sizes.windows}")
    agent = lab.agent(seed, *batches, *overrides)
    before, after, gradients = {}, {}, {}

    def weights() -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in agent.encoder.parameters()])

    def watch(name: str) -> None:
        def start(*_) -> None:
            before[name], gradients[name] = weights(), flat_gradient(agent.encoder)

        agent.optimizers[name].register_step_pre_hook(start)
        agent.optimizers[name].register_step_post_hook(lambda *_: after.update({name: weights()}))

    for name in ("critic", "auxiliary"):
        watch(name)
    metrics = agent.update_on_device(lab.replay, with_actor=False)
    unclipped = max(1.0, float(metrics["aux/grad_norm"]) / lab.config().aux_optimizer.clip_norm)
    whole = gradients["critic"] + unclipped * gradients["auxiliary"]
    joint = -agent.config.learning_rate * whole / (whole.abs() + agent.config.adam_eps)
    return {name: after[name] - before[name] for name in after} | {"joint": joint}


def transitions(lab: Lab) -> int:
    """Number of transitions with as many frames as the windows have."""
    return lab.sizes.windows * lab.config().mlr.seq_len


def rl_augmentation(lab: Lab) -> list[Effect]:
    """F14: the critic's loss with and without the intensity factor on its pixels."""
    agent, _ = short_training(lab.small)
    trained = f"after {lab.sizes.updates} updates, preset {lab.small.config().preset}"
    return [
        *brightness(lab, "initial weights", None),
        *brightness(lab.small, trained, agent.state()),
    ]


def brightness(lab: Lab, weights: str, state: dict | None) -> list[Effect]:
    """F14 for one agent: `state` is its state, None a fresh agent's."""
    pairs = [[critic(lab, seed, state, brightened) for brightened in (False, True)] for seed in lab.seeds]
    pixels = number(*((a["pixels"] - b["pixels"]).abs().mean() for a, b in pairs))
    targets = number(*((a["target"] - b["target"]).abs().mean() / a["target"].abs().mean() for a, b in pairs))
    loss = [number(*(side["loss"] for side in sides)) for sides in zip(*pairs, strict=True)]
    cosines = number(*(cosine(a["gradient"], b["gradient"]) for a, b in pairs))
    sample = f"{lab.config().task}, {lab.sizes.seeds} seeds x {transitions(lab)} transitions, {weights}"
    quantity = "cosine of the encoder's gradients of the critic's loss"
    return [
        Effect("F14", SUITE, "mean change of a pixel, grey levels", compared=pixels, sample=sample),
        Effect("F14", SUITE, "mean change of a TD target over its mean size", compared=targets, sample=sample),
        Effect("F14", SUITE, "critic's loss", *loss, sample=sample),
        Effect("F14", SUITE, quantity, compared=cosines, sample=sample),
    ]


def critic(lab: Lab, seed: int, state: dict | None, brightened: bool) -> dict:
    agent, batches = lab.agent(seed), Generator().manual_seed(seed)
    if state is not None:
        agent.load_state(state)
    config = lab.config()
    batch = lab.replay.sample(transitions(lab), batches)
    last_offset = config.agent.rl_crop_last_offset
    crop = RandomCrop(config.environment.image_size, config.agent.crop_size, 0, "slice", last_offset)

    def augmented(images: Tensor) -> Tensor:
        count, scale = len(images), config.augmentation.intensity if brightened else 0.0
        pixels = crop(images, crop.draw(count, batches, "cpu"))
        factor = intensity_factor(count, scale, config.augmentation.intensity_clamp, batches, "cpu")
        return pixels * factor.view(-1, 1, 1, 1)

    obs, next_obs = augmented(batch.obs), augmented(batch.next_obs)
    q, target = agent.q(obs, batch.action), agent.q_target(batch, next_obs)
    loss = losses.critic_loss(q, target)
    loss.backward()
    return {"pixels": obs, "target": target, "loss": loss.item(), "gradient": flat_gradient(agent.encoder)}


@cache
def short_training(lab: Lab) -> tuple[SACAgent, dict[str, list[float]]]:
    """An agent after `sizes.updates` on random play, and the norms of its gradients before clipping, by update."""
    agent, limit = lab.agent(1), lab.config().aux_optimizer.clip_norm
    of_critic: dict[nn.Parameter, Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, *_) -> None:
        of_critic.update({parameter: parameter.grad.clone() for parameter in optimizer.param_groups[0]["params"]})

    agent.optimizers["critic"].register_step_pre_hook(keep)
    norms: dict[str, list[float]] = {"MLR": [], "critic": [], "both losses": []}
    for step in range(lab.sizes.updates):
        mlr_norm = float(agent.update(lab.replay, step, "update")["aux/grad_norm"])
        whole = dict(of_critic)
        for parameter in agent.optimizers["auxiliary"].param_groups[0]["params"]:
            whole[parameter] = whole.get(parameter, 0) + parameter.grad * max(1.0, mlr_norm / limit)
        parts = (mlr_norm, *(nn.utils.get_total_norm(list(part.values())) for part in (of_critic, whole)))
        for values, value in zip(norms.values(), parts, strict=True):
            values.append(float(value))
    return agent, norms


def clipping(lab: Lab) -> list[Effect]:
    """F15."""
    _, norms = short_training(lab.small)
    config = lab.small.config()
    limit = config.aux_optimizer.clip_norm
    sample = f"{config.task}, {lab.sizes.updates} updates, preset {config.preset}"
    over = {name: number(mean(value > limit for value in values)) for name, values in norms.items()}
    typical = [
        Effect("F15", SUITE, f"norm of the gradient, {name}", number(*values), sample=sample)
        for name, values in norms.items()
    ]
    quantity = f"share of updates above {limit:g}"
    return [
        *typical,
        Effect("F15", SUITE, f"{quantity}, MLR", over["MLR"], over["both losses"], sample=sample),
        Effect("F15", SUITE, f"{quantity}, critic, never clipped", over["critic"], over["both losses"], sample=sample),
    ]


def crop(lab: Lab) -> list[Effect]:
    """F9."""
    return rows.crop(lab, lab.config().agent.crop_size)


def momentum(lab: Lab) -> list[Effect]:
    """F13."""
    return rows.momentum(lab, lab.config().agent.update_every, before_step=False)


MEASUREMENTS: dict[str, Callable[[Lab], list[Effect]]] = {
    "F5": distance,
    "F7": initial_weights,
    "F9": crop,
    "F10": crop_offsets,
    "F11": last_evaluation,
    "F12": joint_step,
    "F13": momentum,
    "F14": rl_augmentation,
    "F15": clipping,
    "F16": rows.mask_counts,
}
