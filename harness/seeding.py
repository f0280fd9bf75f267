"""One random generator per purpose, so that the order of calls cannot matter."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose of a run, the same on every machine."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def environment_seed(seed: int, episode: int, training: bool) -> int:
    """Seed of the training environment of a run, or of that of episode `episode` of an evaluation."""
    return derive_seed(seed, "environment" if training else "evaluation_environment", episode)


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, *purpose))


class Generators:
    """Named torch generators on one device, saved and restored in place."""

    def __init__(self, seed: int, device: "torch.device", names: tuple[str, ...]):
        import torch  # environment workers derive seeds, and do without it

        self._device = device.type
        place = "cpu" if device.type == "meta" else device  # any generator serves on meta, where nothing is drawn
        self._generators = {name: torch.Generator(place).manual_seed(derive_seed(seed, name)) for name in names}

    def __getitem__(self, name: str) -> "torch.Generator":
        return self._generators[name]

    def __iter__(self) -> "Iterator[torch.Generator]":
        return iter(self._generators.values())

    def state(self) -> dict:
        return {"device": self._device, **{name: generator.get_state() for name, generator in self._generators.items()}}

    def load_state(self, state: dict) -> None:
        """Raises ValueError for generators of another kind of device, whose streams are others."""
        if state["device"] != self._device:
            raise ValueError(f"it was made with device={state['device']}, which draws other random numbers")
        for name, generator in self._generators.items():
            generator.set_state(state[name].cpu())
