"""Configurations and published scores: beside the packages in a checkout, inside this package where it is installed."""

import tomllib
from importlib import metadata
from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOT = _HERE if (_HERE / "configs").is_dir() else _HERE.parent
CONFIGS = ROOT / "configs"
PUBLISHED = ROOT / "results" / "published"


def project_version() -> str:
    if ROOT == _HERE:
        return metadata.version("mlr-rl")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
