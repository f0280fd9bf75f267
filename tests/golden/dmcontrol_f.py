"""Replays f (the learning rate of the auxiliary) of a folder of DMControl reference files."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dmcontrol.losses import learning_rate_factor
from recipes import COMMANDS
from tests.golden.check import Check, load, relative, setting

TOLERANCE = 2e-5
BASE = 0.5  # of the reference's auxiliary rate; our key holds the product


def replay_f(folder: Path) -> Iterator[Check]:
    """The factor at listed counts of updates, and the first rates."""
    config = COMMANDS["dmcontrol"].resolve(["task=finger_spin"]).aux_optimizer
    for path in sorted(folder.glob("f_*.npz")):
        arrays = load(path)
        warmup = (
            int(setting(arrays, "warmup_updates", config.warmup_updates)),
            setting(arrays, "warmup_start", config.warmup_start),
        )
        factor = learning_rate_factor(torch.from_numpy(arrays["step"]), *warmup)
        for count, actual, expected in zip(arrays["step"], factor, arrays["multiplier"], strict=True):
            yield relative(path.name, f"multiplier at {count}", actual, expected, TOLERANCE)
        for key in (key for key in arrays if key.startswith("lr_at_first")):
            auxiliary_rate = float(re.search(r"aux_lr_(\w+)", key)[1].replace("m", "-").replace("p", "."))
            counts = torch.arange(len(arrays[key]))
            rates = BASE * auxiliary_rate * learning_rate_factor(counts, *warmup)
            yield relative(path.name, key, np.asarray(rates), arrays[key], TOLERANCE)
