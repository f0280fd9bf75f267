"""An ablation: reward prediction beside the reconstruction. T time, b sequences, D latent."""

from torch import Tensor, nn


class RewardHead(nn.Linear):
    """Predicts the symlog of the reward that followed each step from its decoded latent."""

    def __init__(self, latent_dim: int):
        super().__init__(latent_dim, 1)

    def forward(self, decoded: Tensor, rewards: Tensor) -> Tensor:
        """Squared error [T, b] for decoded latents [T, b, D] and rewards [T, b]."""
        return (super().forward(decoded).squeeze(-1) - symlog(rewards)).square()


def symlog(values: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return values.sign() * values.abs().log1p()
