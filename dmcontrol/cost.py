"""What an update costs, counted."""

from dmcontrol.config import RGB, DMControlConfig, map_sides
from mlr.decoder import reads_actions


def update_flops(config: DMControlConfig, action_size: int) -> float:
    """Floating-point operations of one update, two per multiply-add, averaged over updates with and without the actor.

    Elementwise work is left out.
    """
    agent, latent = config.agent, config.agent.encoder.latent
    first, others, fc = encoder_multiply_adds(config)
    forward = first + others + fc
    trained = 3 * forward - first  # the first layer's input needs no gradient
    policy = agent.hidden * (latent + agent.hidden + 2 * action_size)
    q_heads = 2 * agent.hidden * (latent + action_size + agent.hidden + 1)
    critic = trained + 2 * forward + policy + 4 * q_heads
    actor = first + others + 3 * fc + 3 * policy + 2 * q_heads  # a pass without gradient serves both latents
    total = agent.batch_size * (critic + actor / agent.update_every)
    if config.aux == "mlr":
        frames = config.mlr_agent.batch_size * config.mlr.seq_len
        target = forward if config.mlr.target == "latent" else 0
        total += frames * (trained + target + objective_multiply_adds(config, action_size))
    return 2.0 * total


def encoder_multiply_adds(config: DMControlConfig) -> tuple[int, int, int]:
    """Of one image: the first convolution, the others, the linear layer."""
    encoder = config.agent.encoder
    sides = map_sides(encoder, config.agent.crop_size)
    inputs = [3 * config.environment.frame_stack] + [encoder.filters] * (len(sides) - 1)
    first, *others = (channels * encoder.filters * 3**2 * side**2 for channels, side in zip(inputs, sides, strict=True))
    return first, sum(others), encoder.filters * sides[-1] ** 2 * encoder.latent


def objective_multiply_adds(config: DMControlConfig, action_size: int) -> float:
    """Of one step of one window behind the encoders, backward pass included."""
    mlr, latent, decoder = config.mlr, config.agent.encoder.latent, config.mlr.decoder
    tokens = 2 if reads_actions(mlr) else 1  # of a step
    attention = 2 * tokens * mlr.seq_len * latent  # of one query with the keys and values of all tokens of all steps
    block = tokens * ((4 + 2 * decoder.mlp_ratio) * latent**2 + attention)
    last = (4 + 2 * decoder.mlp_ratio) * latent**2 + attention  # for the state token alone
    blocks = max(decoder.depth - 1, 0) * block + min(decoder.depth, 1) * last
    embedding = 2 * action_size * latent if reads_actions(mlr) else 0
    reward = latent if mlr.reward_weight > 0 else 0
    if mlr.target == "pixel":
        pixels = RGB * config.agent.crop_size**2
        return 3 * (blocks + reward + latent * pixels) + embedding
    mlp = 2 * latent * config.mlr_agent.projection
    return 3 * (blocks + reward + (mlr.projector + mlr.predictor) * mlp) + mlr.projector * mlp + embedding
