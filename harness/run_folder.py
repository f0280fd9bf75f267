"""A run on disk: its layout, what identifies its configuration, and what it was made with."""

import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from harness.config import ConfigError, as_dict
from harness.disk import lock
from harness.files import CONFIGS

RENAMED = CONFIGS / "renamed.yaml"

# Keys that do not change what is learned: a run may continue with other values.
# `env_steps` is the length of a DMControl run, which may be prolonged; Atari's schedules depend on its length.
OUTSIDE_HASH = (
    "experiment", "run_dir", "device", "threads", "deterministic", "capture", "fused", "compile",
    "checkpoint_every", "log_every", "video", "keep_weights", "env_steps",
    "logger", "evaluation.workers", "evaluation.background", "evaluation.timeout_seconds",
)  # fmt: skip


class RunFolder:
    """Paths inside runs/<suite>/<task>/<experiment>/seed_<n>/."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.csv"
        self.evaluations = self.path / "evaluations.csv"
        self.episodes = self.path / "episodes.csv"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.media = self.path / "media"
        self.failure = self.path / "failure.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other process from training here; the folder is made if need be.

        Raises ConfigError if one does already.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise ConfigError(f"{self.path} cannot be made: {error.strerror}") from error
        with (self.path / ".lock").open("w") as file:
            if not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                raise ConfigError(f"another process is training in {self.path}: wait for it, or stop it")
            yield

    def weights_at(self, agent_steps: int) -> Path:
        return self.weights / f"{agent_steps:09d}.safetensors"

    def video_at(self, agent_steps: int) -> Path:
        return self.media / f"episode_{agent_steps:09d}.mp4"

    def saved_weights(self, agent_steps: int | None = None) -> Path:
        """The newest weights, or those after `agent_steps`. Raises ConfigError if the run has not saved them."""
        files = sorted(self.weights.glob("*.safetensors"))
        if not files:
            raise ConfigError(f"{self.path} has no saved weights yet: train it until its first checkpoint")
        if agent_steps is None:
            return files[-1]
        if self.weights_at(agent_steps) not in files:
            steps = ", ".join(str(int(file.stem)) for file in files)
            raise ConfigError(f"{self.path} has no weights of agent step {agent_steps}, only of {steps}")
        return self.weights_at(agent_steps)

    def drop_weights(self, before: int, but: Container[int]) -> None:
        """Deletes the weights of earlier agent steps than `before` that are not among `but`."""
        for file in self.weights.glob("*.safetensors"):
            if int(file.stem) < before and int(file.stem) not in but:
                file.unlink()


def episodes_beside(table: Path) -> Path:
    """Folder of what checks a table that is not a run's own."""
    return table.with_suffix(".episodes")


def checkpoint_names(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder, oldest first; see harness/checkpoint.py."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if re.fullmatch(r"\d+(\+\d+)?", path.name))


def read_config(path: str | Path) -> dict:
    """The configuration of the run folder `path`, under today's names. Raises ConfigError if it is none."""
    folder = RunFolder(path)
    if not os.path.isfile(folder.config):  # Path's own raises for a name too long
        raise ConfigError(f"{folder.path} is no run folder: it has no config.yaml")
    return with_todays_names(_read(folder.config, yaml.safe_load))


def with_todays_names(config: dict) -> dict:
    """A configuration of any version with the keys of this one, which configs/renamed.yaml lists."""
    table = renamed()
    if table["keys"].keys() & config.keys():
        config = _renamed(config, table)
    names = ("all", str(config.get("method")), str(config.get("auxiliary")))
    lacking = {key: value for name in names for key, value in table["later"].get(name, {}).items()}
    present = leaves(config)
    return config if lacking.keys() <= present.keys() else nested(lacking | present)


def _renamed(config: dict, table: dict) -> dict:
    suite, old, new = config.get("benchmark"), leaves(config), {}
    for key, value in old.items():
        sections = [*accumulate(key.split("."), "{}.{}".format)]  # sections that the key lies in, and the key itself
        name = next((each for each in reversed(sections) if each in table["keys"]), None)
        targets = key if name is None else table["keys"][name]
        for target in [targets] if isinstance(targets, str) else targets or []:
            today = target + key.removeprefix(name or key)
            if today == key or today not in old:  # `game` names the task of earlier configurations alone
                new[today] = value
    tree = nested(table["added"].get(suite, {}) | new)
    unread = table["unread"].get(suite, []) if tree.get("auxiliary") == "none" else []
    return {name: value for name, value in tree.items() if name not in unread}


@functools.cache
def renamed() -> dict:
    return yaml.safe_load(RENAMED.read_text())


def read_manifest(path: str | Path) -> dict:
    """The manifest of the run folder `path`. Raises ConfigError if it cannot be read."""
    return _read(RunFolder(path).manifest, json.loads)


def leaves(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; an empty mapping is a value."""
    found = {}
    for name, value in tree.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return found


def nested(leaves: dict[str, Any], parts: Callable[[str], list[str]] = lambda key: key.split(".")) -> dict:
    """Inverse of `leaves`. parts: a key -> names of its sections, and its own."""
    tree: dict = {}
    for key, value in leaves.items():
        *parents, name = parts(key)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def config_hash(config) -> str:
    """Digest over the keys that change learning; `config` is a dataclass or its dict."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def check_run(config) -> RunFolder:
    """The folder of a run, new or of an earlier start; nothing is written.

    Raises ConfigError if it holds something else or another configuration.
    """
    folder = RunFolder(config.run_dir)
    try:
        existing = next(path for path in (folder.path, *folder.path.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise ConfigError(f"{folder.path} cannot be a run folder: {existing} is a file")
        found = folder.path.iterdir() if folder.path.exists() else ()
        names = {path.name for path in found if not path.name.startswith(".")}
    except OSError as error:
        raise ConfigError(f"{folder.path} cannot be used: {error.strerror}") from error
    if folder.config.name in names:
        differing = _differences(identity(read_config(folder.path)), identity(config))
        if differing:
            raise ConfigError(
                f"{folder.path} holds another configuration ({'; '.join(differing[:3])}): "
                "add experiment=NAME or another run_dir"
            )
    elif names - {_part(folder.config).name}:  # a kill may have left that one
        raise ConfigError(f"{folder.path} is not empty and no run folder: choose another run_dir")
    return folder


def record_start(config, manifest: dict) -> None:
    """Makes the folder of a run if need be, and notes this start in its manifest beside `manifest`.

    Raises OSError if the folder cannot be written.
    """
    folder = RunFolder(config.run_dir)
    starts = read_manifest(folder.path)["starts"] if folder.manifest.is_file() else []
    folder.path.mkdir(parents=True, exist_ok=True)
    write_whole(folder.config, yaml.safe_dump(as_dict(config), sort_keys=False))
    start = environment() | {"renderer": manifest.get("renderer")}
    if starts and starts[-1].get("renderer") != start["renderer"]:
        print(f"the renderer was {starts[-1].get('renderer')} and is {start['renderer']}: pictures may differ")
    entries = {"config_hash": config_hash(config), **manifest, "starts": [*starts, start]}
    write_whole(folder.manifest, json.dumps(entries, indent=1))


def record_failure(folder: RunFolder, message: str) -> Path:
    """Writes what is needed to see a failure again: a run is deterministic, so the newest checkpoint leads to it."""
    checkpoints = checkpoint_names(folder.checkpoints)
    start = read_manifest(folder.path)["starts"][-1]
    report = {
        "failure": message,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_agent_steps": int(checkpoints[-1].partition("+")[0]) if checkpoints else 0,
        "to see it again": "run the command below; it goes on from that checkpoint and fails at the same step",
        "start": start,
        "config": read_config(folder.path),
    }
    write_whole(folder.failure, json.dumps(report, indent=1))
    return folder.failure


def environment() -> dict:
    """Versions, commit and hardware of this start."""
    import torch

    packages = ("numpy", "gymnasium", "ale-py", "dm_control", "mujoco", "opencv-python-headless", "hydra-core")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "versions": {name: metadata.version(name) for name in packages},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def identity(config) -> dict:
    """The keys of a configuration that change learning."""
    return _without(config if isinstance(config, dict) else as_dict(config), OUTSIDE_HASH)


def _without(tree: dict, keys: Container[str], section: str = "") -> dict:
    """A nested dict without `keys`, which name an entry of a section as section.entry."""
    return {
        name: _without(value, keys, f"{section}{name}.") if isinstance(value, dict) else value
        for name, value in tree.items()
        if f"{section}{name}" not in keys
    }


def _differences(there: dict, here: dict) -> list[str]:
    theirs, ours = leaves(there), leaves(here)
    pairs = {key: (theirs.get(key), ours.get(key)) for key in (*theirs, *ours)}
    return [f"{key} is {then} there and {now} here" for key, (then, now) in pairs.items() if then != now]


def _read(path: Path, parse: Callable[[str], Any]) -> dict:
    try:
        content = parse(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is damaged") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is damaged")
    return content


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is whole or as before, whenever a kill comes."""
    _part(path).write_text(text)
    os.replace(_part(path), path)


def _part(path: Path) -> Path:
    return path.with_suffix(".part")


def _git(*arguments: str) -> str | None:
    """Output of git on the project's own repository, never on one around it. None without."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
