"""Rows of docs/fidelity.md that both suites have, measured."""

from statistics import mean

import torch
from torch import nn

from mlr.augmentation import RandomCrop
from mlr.masking import sample_mask
from mlr.momentum import frozen_copy, momentum_update
from studies.fidelity.effects import Effect, number
from studies.fidelity.lab import CPU, Lab, cosine


def distance(lab: Lab) -> list[Effect]:
    """F5."""
    released, paper = zip(*lab.mlr_gradients("mlr.distance_scale"), strict=True)
    what = ("F5", lab.suite)
    cosines = number(*(cosine(a.encoder, b.encoder) for a, b in zip(released, paper, strict=True)))
    losses = [number(*(gradient.loss for gradient in side)) for side in (released, paper)]
    norms = [number(*(gradient.norm for gradient in side)) for side in (released, paper)]
    return [
        Effect(*what, "L_mlr", *losses, sample=lab.batches),
        Effect(*what, "norm of its gradient before clipping", *norms, sample=lab.batches),
        Effect(*what, "cosine of the encoder's gradients", compared=cosines, sample=lab.batches),
    ]


def crop(lab: Lab, crop_size: int) -> list[Effect]:
    """F9."""
    config, images = lab.config(), lab.clips(1).frames.flatten(0, 1)
    crops = {
        mode: RandomCrop(config.environment.image_size, crop_size, config.augmentation.pad, mode)
        for mode in (config.augmentation.crop, lab.config(fidelity="paper").augmentation.crop)
    }
    released, paper = crops.values()
    offsets = released.draw(len(images), torch.Generator().manual_seed(1), CPU)
    changed = (released(images, offsets) - paper(images, offsets)).abs()
    gradients = lab.mlr_gradients("augmentation.crop")
    cosines = number(*(cosine(a.encoder, b.encoder) for a, b in gradients))
    what, pictures = ("F9", lab.suite), f"{config.task}, {len(images)} stacks"
    return [
        Effect(*what, "mean change of a pixel, grey levels", compared=number(changed.mean()), sample=pictures),
        Effect(*what, "largest change of a pixel, grey levels", compared=number(changed.max()), sample=pictures),
        Effect(*what, "cosine of the encoder's gradients of L_mlr", compared=cosines, sample=lab.batches),
    ]


def momentum(lab: Lab, every: int, before_step: bool) -> list[Effect]:
    """F13, by a weight that counts the updates; before_step: whether the copy is updated before the weight."""
    tau, updates = lab.config().mlr.tau, lab.sizes.draws
    what, sample = ("F13", lab.suite), f"tau {tau:g}, {updates} updates"
    per_update = [number(1 - (1 - tau) ** (1 / period)) for period in (every, 1)]
    lags = [number(mean_lag(tau, period, updates, before_step)) for period in (every, 1)]
    return [
        Effect(*what, "weight of the online network per update", *per_update, sample=sample),
        Effect(*what, "updates that the copy is behind, mean", *lags, sample=sample),
    ]


@torch.no_grad()
def mean_lag(tau: float, every: int, updates: int, before_step: bool) -> float:
    """Mean lag of a copy behind a weight that grows by 1 an update, as a loss sees them, over the second half."""
    online = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    online.weight.zero_()
    copy, lags = frozen_copy(online), []
    for update in range(updates):
        lags.append(float(online.weight - copy.weight))
        online.weight.add_(0 if before_step else 1)
        if update % every == 0:
            momentum_update(copy, online, tau)
        online.weight.add_(1 if before_step else 0)
    return mean(lags[updates // 2 :])


def mask_counts(lab: Lab) -> list[Effect]:
    """F16."""
    config, generator = lab.config(), torch.Generator().manual_seed(1)
    mlr, size = config.mlr, config.environment.image_size
    clips = -(-lab.sizes.draws * mlr.mask.cube_depth // mlr.seq_len)
    steps = torch.cat([sample_mask(mlr.mask, mlr.seq_len, size, generator, CPU) for _ in range(clips)])
    blocks = steps[:, :: mlr.mask.cube_depth].flatten(2).double()  # [clips, blocks, cells]
    independent = torch.full_like(blocks, mlr.mask.ratio).bernoulli(generator=generator)
    what, sample = ("F16", lab.suite), f"{blocks[..., 0].numel()} blocks of {blocks.shape[-1]} cells"
    cells = blocks.shape[-1]
    spreads = [number(masks.sum(-1).std(correction=0) / cells) for masks in (blocks, independent)]
    return [
        Effect(*what, "standard deviation of a block's hidden share", *spreads, sample=sample),
        Effect(*what, "one mask for the batch against one for each window", "not measured", "not measured"),
    ]
