"""What an update costs, counted."""

from atari.config import AtariConfig, map_sides


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
        images, decoder = batch * seq_len, config.mlr.decoder
        block = (4 + 2 * decoder.mlp_ratio) * latent**2  # multiply-adds per token
        last = (4 + 2 + 2 * decoder.mlp_ratio) * latent**2  # a step's two keys and values, the rest for its state token
        tokens = max(decoder.depth - 1, 0) * 2 * block + min(decoder.depth, 1) * last
        total += images * (trained + forward + 3 * (tokens + actions * latent + 2 * agent.hidden * latent))
    return 2.0 * total
