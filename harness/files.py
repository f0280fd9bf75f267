"""Configurations and published scores: beside the packages in a checkout, inside this package where it is installed."""

import tomllib
from importlib import metadata
from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOT = _HERE if (_HERE / "configs").is_dir() else _HERE.parent
CONFIGS = ROOT / "configs"
PUBLISHED = ROOT / "results" / "published"


def installation(extra: str) -> str:
    """The command that installs an extra of the project."""
    return f"pip install 'mlr-rl[{extra}]'" if ROOT == _HERE else f"pip install -e '.[{extra}]'"


def project_version() -> str:
    if ROOT == _HERE:
        return metadata.version("mlr-rl")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
