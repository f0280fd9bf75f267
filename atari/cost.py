"""What an update costs, counted."""

from atari.config import AtariConfig, map_sides
from mlr.decoder import reads_actions


def update_flops(config: AtariConfig, actions: int) -> float:
    """Floating-point operations of one update, two per multiply-add; elementwise work is left out."""
    batch, seq_len, agent = config.agent.batch_size, config.mlr.seq_len, config.agent
    sides = map_sides(agent.encoder, config.environment.image_size)
    inputs = [config.environment.frame_stack, *agent.encoder.channels]
    layers = zip(inputs, agent.encoder.channels, agent.encoder.kernels, sides, strict=False)
    first, *others = (channels * out * kernel**2 * side**2 for channels, out, kernel, side in layers)
    others = sum(others)
    latent = inputs[-1] * sides[-1] ** 2
    forward, trained = first + others, 2 * first + 3 * others  # the first layer's input needs no gradient
    head = 2 * agent.hidden * (latent + (actions + 1) * agent.atoms / 2) * 2  # mean and sigma weights
    total = batch * (trained + 2 * forward + (3 + 2) * head)
    if config.aux == "mlr":
        online, target = objective_multiply_adds(config, actions, latent)
        target += forward if config.mlr.target == "latent" else 0
        total += batch * seq_len * (trained + 3 * online + target)
    return 2.0 * total


def objective_multiply_adds(config: AtariConfig, actions: int, latent: int) -> tuple[float, float]:
    """Of one step of one window behind the encoders: what is trained, forward alone, and what makes the target."""
    mlr, decoder = config.mlr, config.mlr.decoder
    tokens = 2 if reads_actions(mlr) else 1  # of a step
    block = tokens * (4 + 2 * decoder.mlp_ratio) * latent**2
    last = (4 + 2 * decoder.mlp_ratio) * latent**2  # for the state token alone
    blocks = max(decoder.depth - 1, 0) * block + min(decoder.depth, 1) * last
    if tokens == 2 and decoder.depth > 1:  # the first block's queries, keys and values, once for actions that are alike
        blocks -= 3 * max(1 - actions / config.agent.batch_size, 0) * latent**2
    embedding = actions * latent if reads_actions(mlr) else 0
    reward = latent if mlr.reward_weight > 0 else 0
    if mlr.target == "pixel":
        return blocks + embedding + reward + latent * config.environment.image_size**2, 0
    width = 2 * config.agent.hidden if mlr.projector else latent
    projector, predictor = width * latent if mlr.projector else 0, width**2 if mlr.predictor else 0
    return blocks + embedding + reward + projector + predictor, projector
