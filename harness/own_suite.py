"""An environment of the user's own as a suite. Without published scores it adds no columns and no references."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.own_environment import OwnEnvironment, make_environment
from harness.recipe import Suite, repeated_steps


def manifest(config: Any, environment: OwnEnvironment) -> dict:
    """The environment's name and class, and the version of the class's package if that is an installed one."""
    try:
        package_version = version(environment.source.split(".")[0])
    except PackageNotFoundError:
        package_version = None
    return {"env": config.env, "class": environment.source, "package_version": package_version}


def describe(config: Any, environment: OwnEnvironment, device_type: str) -> list[str]:
    return [f"environment  {environment.source}, pixels from {environment.pixels}, rewards as they are"]


OWN = Suite(
    make_environment=make_environment,
    units=repeated_steps,
    manifest=manifest,
    describe=describe,
)
