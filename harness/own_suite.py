"""An environment of the user's own as a suite. Without published scores it adds no columns and no references."""

from contextlib import closing
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


def simulator(config: Any) -> dict[str, str]:
    """Class of the environment and version of its package, under the names of the manifest."""
    with closing(make_environment(config, config.seed, 0, False)) as environment:
        return {name: str(value) for name, value in manifest(config, environment).items() if name != "env"}


OWN = Suite(
    make_environment=make_environment, units=repeated_steps, manifest=manifest, describe=describe, simulator=simulator
)
