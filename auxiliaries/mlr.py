"""MLR in the slot: networks, views and optimiser groups that plug its objective into an agent."""

from typing import Any

from torch import Tensor, nn

from auxiliaries.slot import Auxiliary, Group, Host, Reads, Shared
from harness.seeding import Generators
from mlr.cells import hidden_by
from mlr.config import MLRConfig
from mlr.decoder import reads_actions
from mlr.masking import sample_mask
from mlr.objective import MLR, Drawn
from mlr.pixel_target import PixelMLR


class Reconstruction(Auxiliary):
    """Masked latent reconstruction on an agent's encoder."""

    heads = ("projector", "predictor", "reward_head")
    curve = ("cosine_hidden", "1 - cosine of\nprediction and target")

    def __init__(self, config: MLRConfig, host: Host):
        self.config, self.host = config, host
        self.weight = config.weight
        self.generators = host.generators("mask", "augmentation_mlr_target", "augmentation_mlr_masked")
        self.objective = make_objective(config, host, self.generators)
        self.owned, self.targets = self.objective.owned, self.objective.targets
        if host.projector is None:
            self.owned = nn.ModuleDict({"projector": self.objective.projector, **self.owned})
        self.reads = Reads("windows", config.seq_len, self.objective.fields, config.sequences or None)
        self.moves_targets = "with_targets" if host.own_step else "before_step"
        self.groups = self._groups()

    def _groups(self) -> tuple[Group, ...]:
        owned = list(self.owned.parameters())
        if self.host.own_step:
            return self.host.own_groups(owned)
        # Only the blocks are clipped; predictor and action embedding are not (F15).
        decoder = list(self.owned["decoder"].parameters())
        clipped = set(decoder)
        others = [parameter for parameter in owned if parameter not in clipped]
        return Group("decoder", decoder, clip=self.host.clip_norm), Group("unclipped", others)

    def draw(self, batch: Any, shared: Shared) -> Drawn:
        return self.objective.draw(batch.frames)

    def loss(self, batch: Any, shared: Shared, drawn: Drawn, samples: slice) -> dict[str, Tensor]:
        return self.objective.loss(batch, drawn, samples)

    def metrics(self, values: dict[str, Tensor], drawn: Drawn) -> dict[str, Tensor]:
        return self.objective.metrics(values, drawn, self.host.facts.image_size)

    def update_targets(self) -> None:
        self.objective.update_targets()

    def notes(self) -> dict[str, Any]:
        host = self.host
        return {"mask": f"hides {hidden_by(self.config, host.facts.image_size, host.view_size, host.layers)}"}


def make_objective(config: MLRConfig, host: Host, generators: Generators) -> MLR:
    """The objective on the host's encoder, with a projector of the host's or of its own."""
    latent, image_size, pixels = host.facts.latent_dim, host.facts.image_size, config.target == "pixel"
    projector, width = nn.Identity(), latent
    if config.projector and not pixels:
        projector, width = host.projector, host.projected_dim
        if projector is None:
            projector = host.head(latent, width)
            host.initialise(projector)
    parts = {
        "encoder": host.encoder,
        "projector": projector,
        "action_embedding": host.embed_actions(config.decoder.width or latent) if reads_actions(config) else None,
        "latent_dim": latent,
        "mask": lambda: sample_mask(config.mask, config.seq_len, image_size, generators["mask"], host.device),
        "augment_masked": lambda frames: host.augment(frames, generators["augmentation_mlr_masked"]),
        "augment_target": lambda frames: host.augment(frames, generators["augmentation_mlr_target"]),
        "autocast": host.autocast,
    }
    if pixels:
        head = nn.Linear(latent, host.frame_channels * host.view_size**2)
        objective: MLR = PixelMLR(config, predictor=head, frame_channels=host.frame_channels, **parts)
    else:
        objective = MLR(config, predictor=host.head(width, width) if config.predictor else nn.Identity(), **parts)
    host.initialise(objective.owned)
    return objective
