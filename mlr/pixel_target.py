"""An ablation: pixels as the target.

T time, B batch, b a slice of it, C H W a stacked observation, S side of a view.
"""

import torch
from torch import Tensor, nn

from harness.pixels import to_unit_range
from mlr.config import MLRConfig
from mlr.objective import MLR, Drawn, Values, squared_distance


class PixelMLR(MLR):
    """Predicts the masked branch's own view of the newest frame, before it was masked.

    `projector` is the identity and `predictor` a linear head to the `frame_channels` x S x S values of that view, in
    0..1. An image has one draw of crop and intensity, so that input and target share it. No momentum copies.
    """

    def __init__(self, config: MLRConfig, *, frame_channels: int, **parts):
        self.frame_channels = frame_channels
        super().__init__(config, **parts)

    def _make_targets(self) -> nn.ModuleDict:
        return nn.ModuleDict()

    def _views(self, frames: Tensor, mask: Tensor) -> Drawn:
        newest = frames[:, :, -self.frame_channels :]
        both = self.augment_masked(torch.cat([self._hide_pixels(frames, mask), newest], dim=2))
        return Drawn(mask, both, whole=None)

    def _masked_pixels(self, drawn: Drawn, samples: slice) -> tuple[Tensor, Tensor]:
        both = drawn.masked[:, samples]
        masked, newest = both.tensor_split([both.shape[2] - self.frame_channels], dim=2)
        return masked * self.config.masked_scale, newest

    def _target(self, whole: Tensor, samples: slice) -> tuple[Tensor, Values]:
        return to_unit_range(whole).flatten(2), {}

    def _distance(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Values]:
        return squared_distance(prediction, target)
