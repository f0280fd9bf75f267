"""The lock against pyproject.toml and against what is installed here."""

import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness import files

ROOT = Path(__file__).parents[1]


def project_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def locked_versions() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def applies(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})


def test_every_range_has_both_ends_and_holds_the_locked_version():
    locked = locked_versions()
    for requirement in project_requirements():
        assert {specifier.operator for specifier in requirement.specifier} == {">=", "<"}, requirement
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_the_lock_names_everything_that_is_needed_here():
    """A package that is missing in the lock would be installed in its newest version."""
    seen, waiting = set(), project_requirements()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            # Extras that `make` does not install.
            if key[0] in ("atari-py", "triton") and find_spec(key[0].replace("-", "_")) is None:
                continue
            needed = map(Requirement, metadata.requires(requirement.name) or [])
            waiting += [other for other in needed if applies(other, requirement.extras)]
    assert {name for name, _ in seen} <= locked_versions().keys()
    assert len(seen) > len(project_requirements())


def test_an_extra_is_installed_from_the_checkout_or_by_name(monkeypatch):
    assert files.installation("report") == "pip install -e '.[report]'"
    monkeypatch.setattr(files, "ROOT", Path(files.__file__).parent)  # as in a wheel
    assert files.installation("report") == "pip install 'mlr-rl[report]'"
