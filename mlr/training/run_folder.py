"""A run on disk: its layout, what identifies its configuration, and what it was made with."""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import yaml

from mlr.config import ConfigError

# Keys that do not change what is learned: a run may continue with other values.
OUTSIDE_HASH = ("experiment", "run_dir", "device", "threads", "checkpoint_every", "log_every", "video")


class RunFolder:
    """Paths inside runs/<benchmark>/<game or task>/<experiment>/seed_<n>/."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.csv"
        self.evaluations = self.path / "evaluations.csv"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.media = self.path / "media"

    def weights_at(self, agent_steps: int) -> Path:
        return self.weights / f"{agent_steps:09d}.safetensors"

    def newest_weights(self) -> Path:
        """Raises ConfigError if the run has saved none yet."""
        files = sorted(self.weights.glob("*.safetensors"))
        if not files:
            raise ConfigError(f"{self.path} has no saved weights yet: train it until its first checkpoint")
        return files[-1]


def read_config(path: str | Path) -> dict:
    """The configuration of the run folder `path`. Raises ConfigError if it is none."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise ConfigError(f"{folder.path} is no run folder: it has no config.yaml")
    return yaml.safe_load(folder.config.read_text())


def config_hash(config) -> str:
    """Digest over the keys that change learning; `config` is a dataclass or its dict."""
    return hashlib.sha256(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()[:16]


def open_run(config, manifest: dict) -> RunFolder:
    """Makes the folder of a run, or accepts the one that an earlier start of the same configuration made.

    Raises ConfigError, before anything is written, if the folder holds something else.
    """
    folder = RunFolder(config.run_dir)
    if folder.config.is_file():
        differing = _differences(_identity(read_config(folder.path)), _identity(config))
        if differing:
            raise ConfigError(
                f"{folder.path} holds another configuration ({'; '.join(differing[:3])}): choose another run_dir"
            )
    elif folder.path.is_dir() and any(folder.path.iterdir()):
        raise ConfigError(f"{folder.path} is not empty and no run folder: choose another run_dir")
    else:
        for path in (folder.path, folder.weights, folder.media):
            path.mkdir(parents=True, exist_ok=True)
        _write(folder.config, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    starts = json.loads(folder.manifest.read_text())["starts"] if folder.manifest.is_file() else []
    _write(
        folder.manifest,
        json.dumps({"config_hash": config_hash(config), **manifest, "starts": [*starts, environment()]}, indent=1),
    )
    return folder


def environment() -> dict:
    """Versions, commit and hardware of this start."""
    import torch

    packages = ("numpy", "gymnasium", "ale-py", "opencv-python-headless", "hydra-core", "safetensors")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "versions": {name: metadata.version(name) for name in packages},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _identity(config) -> dict:
    tree = config if isinstance(config, dict) else dataclasses.asdict(config)
    return {key: value for key, value in tree.items() if key not in OUTSIDE_HASH}


def _differences(there, here, key: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*there, *here])
        return [
            line
            for name in keys
            for line in _differences(there.get(name), here.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if there == here else [f"{key} is {there} there and {here} here"]


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def _git(*arguments: str) -> str | None:
    root = Path(__file__).parents[2]
    result = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
