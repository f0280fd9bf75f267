"""The files in configs/: what they compose to, that every key is read and bounded, and how the commands refuse."""

import ast
import functools
import json
import os
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import product
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import annotated_types as bounds
import pytest
import yaml
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from auxiliaries import AUXILIARIES
from harness.command import chosen_groups
from harness.command_line import launch
from harness.config import ConfigError, as_dict
from harness.run_folder import config_hash
from recipes import COMMANDS
from tests.conftest import AUXILIARIES_OF

ROOT = Path(__file__).parents[1]
TASK = {"atari": "game=pong", "dmcontrol": "task=ball_in_cup_catch", "mwm": "task=window_close"}
SUITE = {"atari": "atari", "dmcontrol": "dmcontrol", "mwm": "metaworld"}
TASK_KEYS = ("game=", "task=", "domain=", "env=")
NAMES = {"auxiliary", "fidelity", "preset", "experiment", "run_dir"}  # keys that only say what was chosen
GROUPS = {name: command.groups() for name, command in COMMANDS.items()}
COMBINED = ("preset", "fidelity", "auxiliary")
# Every pair of preset and auxiliary, with each fidelity by turns.
COMBINATIONS = [
    (name, preset, groups["fidelity"][(i + j) % len(groups["fidelity"])], auxiliary)
    for name, groups in GROUPS.items()
    for (i, preset), (j, auxiliary) in product(enumerate(groups["preset"]), enumerate(["none", *AUXILIARIES_OF[name]]))
]


def with_task(name: str, overrides: tuple[str, ...]) -> list[str]:
    named = any(override.startswith(TASK_KEYS) for override in overrides)
    return [*([] if named else [TASK[name]]), *overrides]


def compose(name: str, *overrides: str) -> Any:
    """A configuration of the command `name`, of its task in TASK unless `overrides` name another."""
    return COMMANDS[name].resolve(with_task(name, overrides))


compose_once = functools.cache(compose)


@functools.cache
def plain(name: str, *overrides: str) -> dict:
    """Plain values of a composed configuration, before bounds are checked."""
    return COMMANDS[name].values(COMMANDS[name].compose(with_task(name, overrides)))


def combined(name: str, preset: str = "full", fidelity: str = "released", auxiliary: str | None = None) -> dict:
    usual = "mlr" if AUXILIARIES_OF[name] else "none"
    return plain(name, f"preset={preset}", f"fidelity={fidelity}", f"auxiliary={auxiliary or usual}")


def entries(tree: dict, prefix: str = "") -> dict:
    """Every value of nested dicts by its dotted key."""
    values = {}
    for key, value in tree.items():
        values |= entries(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def flat(config: Any) -> dict:
    return entries(as_dict(config))


def difference(a: Any, b: Any) -> dict[str, tuple]:
    """Values of both by key, where they differ; None for a key that one of them lacks."""
    a, b = flat(a), flat(b)
    return {key: (a.get(key), b.get(key)) for key in a | b if a.get(key) != b.get(key) and key not in NAMES}


# What the files compose to


def test_the_choices_are_the_documented_ones():
    for name, groups in GROUPS.items():
        assert {"full", "cpu", "quick", "tiny"} <= set(groups["preset"])
        assert {"released", "paper"} <= set(groups["fidelity"])
        assert {"none", *AUXILIARIES_OF[name]} <= set(groups["auxiliary"])


@pytest.mark.parametrize("name, preset, fidelity, auxiliary", COMBINATIONS)
def test_every_combination_is_valid_and_survives_a_file_and_a_process(name, preset, fidelity, auxiliary):
    config = COMMANDS[name].build(combined(name, preset, fidelity, auxiliary))
    suite, method = SUITE[name], auxiliary if AUXILIARIES_OF[name] else config.method
    assert (config.suite, config.preset, config.fidelity, config.auxiliary) == (suite, preset, fidelity, auxiliary)
    assert config.run_dir == f"runs/{suite}/{config.task}/{method}-{fidelity}-{preset}/seed_1"
    assert (config.auxiliary_section is None) == (auxiliary == "none")
    written = yaml.safe_load(yaml.safe_dump(as_dict(config)))
    assert COMMANDS[name].build(written) == config
    assert pickle.loads(pickle.dumps(config)) == config


# Groups whose choices add to the others; tests/test_ablations.py has those of configs/ablation.
CHOICES = [
    (name, group, choice)
    for name, groups in GROUPS.items()
    for group, choices in groups.items()
    for choice in choices
    if group != "ablation"
]


@pytest.mark.parametrize("name, group, choice", CHOICES)
def test_what_a_chosen_file_says_wins_over_the_base(name, group, choice):
    (file,) = [*ROOT.glob(f"configs/{group}/{choice}.yaml"), *ROOT.glob(f"configs/{name}/{group}/{choice}.yaml")]
    stated = entries(yaml.safe_load(file.read_text()))
    stated.pop("defaults", None)
    setting = f"{group}={choice}" if group in chosen_groups(name) else f"+{group}={choice}"
    follows = {key for key, value in stated.items() if "${" in str(value)}
    composed = entries(combined(name, **{group: choice}) if group in COMBINED else plain(name, setting))
    for auxiliary in AUXILIARIES_OF[name]:  # a section is there with its own auxiliary only
        if any(key.startswith(f"{auxiliary}.") for key in stated):
            composed = entries(plain(name, setting, f"auxiliary={auxiliary}")) | composed
    assert {key: composed[key] for key in stated if key not in follows} == {
        key: value for key, value in stated.items() if key not in follows
    }


FIDELITY = {
    "atari": {
        "mlr.masked_scale": (255.0, 1.0),  # F1
        "mlr.mask.rounding": ("up", "down"),  # F2
        "agent.noisy_sigma0": (0.1, 0.5),  # F3
        "mlr.distance_scale": (1.0, 0.5),  # F5
        "agent.n_step_done": ("one_step", "n_step"),  # F6
        "augmentation.crop": ("resample", "slice"),  # F9
    },
    "dmcontrol": {
        "mlr.distance_scale": (1.0, 0.5),  # F5
        "aux_networks.redraw": (True, False),  # F7
        "augmentation.crop": ("resample", "slice"),  # F9
        "agent.rl_crop_last_offset": (False, True),  # F10
    },
    "mwm": {
        "mwm.reward_head": ("last_patch", "reward_token"),  # M1
        "mwm.actor_gradient": ("released", "pathwise"),  # M2
        "mwm.adam_eps": ("tensorflow", "torch"),  # M3
        "mwm.update_at": ("first", "last"),  # M4
    },
}


@pytest.mark.parametrize("name", FIDELITY)
def test_fidelity_changes_its_rows_and_nothing_else(name):
    assert difference(compose(name, "fidelity=released"), compose(name, "fidelity=paper")) == FIDELITY[name]


# Names in the record of the released Atari code, which the reference values come with, by our key.
RECORDED = {
    "agent.atoms": "atoms", "agent.batch_size": "batch", "agent.clip_norm": "clip", "agent.discount": "discount",
    "agent.learning_rate": "lr", "agent.adam_eps": "eps", "agent.n_step": "n_step",
    "agent.noisy_sigma0": "config.model.noisy_nets_std", "agent.hidden": "config.model.dqn_hidden_size",
    "agent.epsilon_initial": "config.agent.eps_init", "agent.epsilon_final": "config.agent.eps_final",
    "agent.epsilon_start": "eps_itr_min", "loop.learning_starts": "min_itr_learn",
    "loop.replay_ratio": "updates_per_iteration", "replay.alpha": "pri_alpha", "replay.beta_initial": "pri_beta_init",
    "replay.beta_final": "pri_beta_final", "replay.beta_end": "pri_beta_itr",
    "replay.default_priority": "default_priority_of_buffer", "environment.image_size": "config.env.imagesize",
    "environment.frame_stack": "config.env.num_img_obs", "environment.horizon": "config.eval_env.horizon",
    "evaluation.horizon": "config.eval_env.horizon", "evaluation.epsilon": "config.agent.eps_eval",
    "evaluation.episodes": "config.sampler.eval_max_trajectories",
    "evaluation.environments": "config.sampler.eval_n_envs", "mlr.tau": "momentum_tau",
    "environment.terminal_on_life_loss": "config.env.episodic_lives",
}  # fmt: skip
# Of the paper's tables and appendix, and of the released code where its record has no word.
DEFAULTS = {
    "agent_steps": 100_000, "environment.action_repeat": 4, "environment.max_noops": 30,
    "environment.sticky_actions": 0.0, "agent.encoder.channels": [32, 64, 64], "agent.encoder.kernels": [8, 4, 3],
    "agent.encoder.strides": [4, 2, 1], "agent.head_gradient_scale": 2**-0.5, "agent.kl_floor": 1e-6,
    "agent.kl_ceiling": 1e6, "agent.epsilon_steps": 1, "replay.capacity": 100_000, "replay.window": 16,
    "replay.beta_start": 2000, "replay.priority_eps": 1e-5, "augmentation.pad": 4, "augmentation.intensity": 0.05,
    "augmentation.intensity_clamp": 2.0, "mlr.seq_len": 16, "mlr.norm_floor": 1e-3, "mlr.mask.strategy": "cube",
    "mlr.mask.ratio": 0.5, "mlr.mask.patch_size": 12, "mlr.mask.cube_depth": 8, "mlr.decoder.depth": 2,
    "mlr.decoder.heads": 1, "mlr.decoder.mlp_ratio": 2.0, "mlr.decoder.qkv_bias": False,
    "mlr.decoder.norm_eps": 1e-5,
}  # fmt: skip


def test_the_default_is_the_paper_setting_of_the_released_code():
    config = compose("atari")
    assert (config.preset, config.fidelity, config.auxiliary) == ("full", "released", "mlr")
    values, record = flat(config), json.loads((ROOT / "tests/golden/data/atari/f_settings.json").read_text())
    recorded = entries(record)
    assert {key: values[key] for key in RECORDED} == {key: recorded[name] for key, name in RECORDED.items()}
    assert [config.agent.adam_beta1, config.agent.adam_beta2] == record["betas"]
    assert [config.agent.v_min, config.agent.v_max] == record["v"]
    assert {key: values[key] for key in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("fidelity", GROUPS["atari"]["fidelity"])
def test_the_weight_depends_on_the_game_in_every_fidelity(fidelity):  # F4
    for game, weight in {"pong": 5.0, "up_n_down": 5.0, "alien": 1.0}.items():
        assert compose("atari", f"game={game}", f"fidelity={fidelity}").mlr.weight == weight
    chosen = f"fidelity={fidelity}"
    assert compose("atari", "mlr.weight=3", chosen).mlr.weight == 3.0
    assert compose("atari", "game=alien", "+mlr.weight_by_task.alien=2", chosen).mlr.weight == 2.0


def test_schedules_follow_the_lengths():
    config = compose("atari", "agent_steps=7000", "loop.learning_starts=900", "environment.horizon=50")
    assert (config.replay.capacity, config.replay.beta_end, config.replay.beta_start) == (7000, 7000, 900)
    assert (config.agent.epsilon_start, config.evaluation.horizon) == (900, 50)


def test_the_command_line_wins_over_preset_and_fidelity():
    settings = ("preset=tiny", "fidelity=paper", "agent.hidden=24", "agent.noisy_sigma0=0.3", "replay.window=8")
    config = compose("atari", *settings)
    assert (config.agent.hidden, config.agent.noisy_sigma0, config.mlr.seq_len) == (24, 0.3, 8)


# Sections that no part of a run reads

UNREAD = {
    "atari": ["mlr.mask.ratio=0.3", "mlr.seq_len=6", "mlr.weight=2", "mlr.decoder.heads=5", "+mlr.weight_by_task.x=2"],
    "dmcontrol": [
        "mlr.mask.ratio=0.3", "mlr.seq_len=6", "mlr.tau=0.5", "aux_optimizer.batch_size=7", "aux_networks.projection=9",
        "augmentation.pad=3", "augmentation.crop=slice",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name, setting", [(name, setting) for name, group in UNREAD.items() for setting in group])
def test_what_no_part_of_a_run_reads_does_not_set_it_apart(name, setting):
    bare, other = compose_once(name, "auxiliary=none"), compose(name, "auxiliary=none", setting)
    assert other == bare and as_dict(other) == as_dict(bare) and config_hash(other) == config_hash(bare)


@pytest.mark.parametrize("name, lacking", [
    ("atari", {"mlr"}), ("dmcontrol", {"mlr", "augmentation", "aux_optimizer", "aux_networks"}),
])  # fmt: skip
def test_a_baseline_is_the_same_run_without_the_sections_of_an_auxiliary(name, lacking):
    with_mlr, baseline = compose(name, "auxiliary=mlr"), compose(name, "auxiliary=none")
    assert as_dict(with_mlr).keys() - as_dict(baseline).keys() == lacking
    assert {key.split(".")[0] for key in difference(with_mlr, baseline)} == lacking


def test_the_augmentation_of_a_baseline_on_atari_sets_it_apart():
    baseline, other = compose("atari", "auxiliary=none"), compose("atari", "auxiliary=none", "augmentation.pad=3")
    assert config_hash(baseline) != config_hash(other)


# Keys


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_is_read(name):
    """Each field is read by the packages' code (checking it does not count) or by another value in configs/."""
    read = set()
    for path in (path for top in (name, *SHARED) for path in ROOT.glob(f"{top}/**/*.py")):
        if path.name != "config.py":
            nodes = ast.walk(ast.parse(path.read_text()))
            read |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for path in ROOT.glob("configs/**/*.yaml"):
        for expression in re.findall(r"\$\{.*", path.read_text()):
            read |= set(re.findall(r"\w+", expression))
    # By properties of the configuration itself.
    read |= {"eval_first_env_steps", "eval_every_env_steps", "episode_env_steps"}
    by_name = {*COMMANDS[name].sections}  # RunConfig.auxiliary_section
    unread = [key for key in COMMANDS[name].keys() if key.split(".")[-1] not in read | by_name]
    assert not unread


SHARED = ("auxiliaries", "mlr", "harness", "recipes", "studies", "scripts")


def test_every_file_belongs_to_a_group_or_a_command():
    files = [path.relative_to(ROOT / "configs").with_suffix("") for path in ROOT.glob("configs/**/*.yaml")]
    for name in COMMANDS:
        mine = [path for path in files if path.parts[0] not in (COMMANDS.keys() | NOT_TAKEN.get(name, set())) - {name}]
        grouped = {f"{group}/{choice}" for group, choices in GROUPS[name].items() for choice in choices}
        found = {"/".join(path.parts[-2:]) for path in mine if len(path.parts) > 1}
        assert found | {"auxiliary/none"} == grouped


NOT_TAKEN = {"mwm": {"ablation", "auxiliary"}}  # shared groups of which a command takes none, or not all


# Bounds


def fields_of(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of a schema, those of its sections included, and their annotations."""
    for name, kind in get_type_hints(schema, include_extras=True).items():
        if NoneType in get_args(kind):
            kind = get_args(kind)[0]
        if is_dataclass(kind):
            yield from fields_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def fields_of_command(name: str) -> dict[str, Any]:
    fields = dict(fields_of(COMMANDS[name].schema))
    for section, schema in COMMANDS[name].sections.items():
        del fields[section]
        fields |= dict(fields_of(resolve_name(schema), f"{section}."))
    return fields


def outside(kind: Any) -> Iterator[list]:
    """For each bound of an annotation, those of entries included, values of which at least one lies outside."""
    if get_origin(kind) is Annotated:
        yield from outside(get_args(kind)[0])
        for constraint in kind.__metadata__:
            for part in constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]:
                yield beyond(part, get_args(kind)[0])
    elif get_origin(kind) is list:
        yield from ([[value] for value in values] for values in outside(get_args(kind)[0]))
    elif get_origin(kind) is dict:
        yield from ([{"pong": value} for value in values] for values in outside(get_args(kind)[1]))


def beyond(bound: Any, kind: Any) -> list:
    match bound:
        case bounds.Ge(ge):
            return [ge - 1]
        case bounds.Gt(gt):
            return [gt]
        case bounds.Le(le):
            return [le + 1]
        case bounds.Lt(lt):
            return [lt]
        case bounds.MinLen(least):
            return ["x" * (least - 1)] if kind is str else [[1] * (least - 1)]
        case bounds.MaxLen(most):
            return ["x" * (most + 1)]
        case AfterValidator():  # of texts; the last is what a folder's name may not be
            return ["no/such", " "]
    raise LookupError(f"no value is known to lie outside {bound}")


def auxiliary_of(name: str, key: str) -> str:
    """An auxiliary whose runs read the key."""
    section = key.split(".")[0]
    return section if section in AUXILIARIES else "mlr" if AUXILIARIES_OF[name] else "none"


BOUNDS = [
    pytest.param(name, key, values, id=f"{name}-{key}-{number}")
    for name in COMMANDS
    for key, kind in fields_of_command(name).items()
    for number, values in enumerate(outside(kind))
    if auxiliary_of(name, key) in ["none", *AUXILIARIES_OF[name]]
]


# Choices that fill an optional section.
FILLED_BY = {"resets": ("ladder=resets", "loop.learning_starts=60")}


@functools.cache
def values_of(name: str, auxiliary: str, *filling: str) -> dict:
    """Plain values of a valid configuration."""
    return as_dict(compose(name, "preset=tiny", f"auxiliary={auxiliary}", *filling))


@pytest.mark.parametrize("name, key, values", BOUNDS)
def test_every_bound_of_a_field_is_enforced_and_names_its_key(name, key, values):
    messages, filling = [], FILLED_BY.get(key.split(".")[0], ())
    for value in values:
        tree = json.loads(json.dumps(values_of(name, auxiliary_of(name, key), *filling)))
        node, (*sections, last) = tree, key.split(".")
        for section in sections:
            node = node[section]
        node[last] = value
        try:
            COMMANDS[name].build(tree)
        except ConfigError as error:
            messages.append(str(error))
    assert messages, f"{key}={values} is accepted"
    assert all(message.startswith((f"{key}=", f"{key}.")) and "\n" not in message for message in messages)


@pytest.mark.parametrize("name, free", [
    ("atari", {"agent.v_min", "agent.v_max", "replay.beta_end"}),
    ("dmcontrol", {"agent.log_std_min", "agent.log_std_max"}),
    ("mwm", set()),
])  # fmt: skip
def test_every_number_has_a_bound_but_these(name, free):
    numbers = {key for key, kind in COMMANDS[name].keys().items() if kind in (int, float)}
    bounded = {key for key, kind in fields_of_command(name).items() if list(outside(kind))}
    assert len(bounded) > 60 and numbers - bounded == free


# Refusals

REFUSED = [
    ("", "game has no value: add game=NAME, such as pong"),
    ("preset=tiny", "game has no value"),
    ("game=pacmn", "did you mean"),
    ("game=pong env=CartPole-v1", "exclude each other: leave one out"),
    ("mlr.mask.ration=0.3", "no key mlr.mask.ration; did you mean mlr.mask.ratio?"),
    ("mask_ratio=0.3", "did you mean mlr.mask.ratio?"),
    ("auxiliary=none mlr.mask.ration=0.3", "no key mlr.mask.ration; did you mean mlr.mask.ratio?"),
    ("agent.batchsize=4", "did you mean agent.batch_size?"),
    ("preset=quik", "no preset named 'quik'; did you mean quick?"),
    ("fidelity=published", "choose one of paper, released"),
    ("auxiliary=novelty", "choose one of autoencoder, curl, mlr, none, playvirtual, spr"),
    ("auxiliary=autoencoder", "use mlr train dmcontrol, or another auxiliary"),
    ("auxiliary=curl curl.hidden=0", "which Rainbow lacks: it must be at least 1"),
    ("auxiliary=curl curl.width=0", "curl.width=0 must be at least 1"),
    ("auxiliary=curl +curl.weight_by_task.pogn=1", "did you mean pong?"),
    ("+original=curl", "no original named 'curl'"),
    ("auxiliary=spr spr.steps=16", "spr.steps=16 reads 17 steps, more than replay.window=16: raise replay.window"),
    ("auxiliary=playvirtual replay.window=9", "playvirtual.steps=9 reads 10 steps, more than replay.window=9"),
    ("auxiliary=spr spr.steps=0", "spr.steps=0 must be at least 1"),
    (
        "auxiliary=spr agent.batch_size=1 environment.image_size=36",
        "agent.batch_size=1 with maps of one pixel leaves spr's batch normalisation a single value: raise",
    ),
    ("auxiliary=spr spr.width=8", "spr.width=8 must be null, as maps need none"),
    ("auxiliary=playvirtual playvirtual.ramp_unit=frames", "is not one of agent_steps, env_steps"),
    ("aux=none", "no key aux; it is called auxiliary now"),
    ("mlr_agent.batch_size=4", "no key mlr_agent.batch_size; it is called aux_optimizer.batch_size now"),
    ("suite=dmcontrol", "is atari with these: leave it out"),
    ("method=sac", "method=sac is not one of rainbow"),
    ("game=pong task=boxing", "is pong with these: leave it out"),
    ("seed=one", "seed must be an integer"),
    ("agent.n_step=2.5", "agent.n_step must be an integer"),
    ("mlr.seq_len=2.5", "mlr.seq_len must be an integer"),
    ("mlr.seq_len=true", "mlr.seq_len must be an integer"),
    ("mlr.projector=perhaps", "mlr.projector must be true or false"),
    ("mlr.tau=fast", "mlr.tau must be a number"),
    ("mlr=null", "mlr is a section"),
    ("replay.window=15", "mlr.mask.cube_depth"),
    ("mlr.seq_len=32", "mlr.seq_len=32 is longer than replay.window=16: set replay.window"),
    ("mlr.mask.cube_depth=0", "mlr.mask.cube_depth=0 must be at least 1"),
    ("mlr.mask.patch_size=85", "mlr.mask.patch_size=85 must be at most 84"),
    ("mlr.mask.ratio=1.5", "mlr.mask.ratio=1.5 must be at most 1"),
    ("mlr.mask.ratio=-0.1", "mlr.mask.ratio=-0.1 must be at least 0"),
    ("mlr.mask.ratio=nan", "mlr.mask.ratio"),
    ("mlr.mask.strategy=cubes", "mlr.mask.strategy=cubes is not one of cube"),
    ("mlr.mask.space=feature mlr.mask.stage=conv4", "mlr.mask.stage=conv4 is not one of conv1, conv2, conv3"),
    ("agent.n_step=0", "agent.n_step=0 must be at least 1"),
    ("resets.every=3000", "a section that has no values here (ladder=resets fills resets)"),
    ("agent.anneal_updates=100", "agent.anneal_updates=100 has nothing to anneal: name agent.n_step_initial or"),
    ("ladder=resets resets.every=300", "resets.every=300 must be 0 or above loop.learning_starts=2000"),
    ("mlr.sequences=33", "mlr.sequences=33 must be at most agent.batch_size=32"),
    ("mlr.decoder.width=9", "the decoder has 9 values: it must be even"),
    ("agent.act_with=target", "needs a target network: set agent.target_tau below 1"),
    ("agent.encoder.kind=impala", "agent.encoder.kind=impala is padded: set agent.encoder.padding=same"),
    ("agent.n_step_initial=10", "agent.anneal_updates=0 anneals nothing"),
    ("agent.anneal_updates=9 agent.discount=1 agent.discount_initial=0.9", "agent.discount_initial below 1"),
    ("ladder=reset", "no ladder named 'reset'; did you mean resets?"),
    ("agent.encoder.channels=[32,64]", "agent.encoder.channels"),
    ("loop.learning_starts=10", "loop.learning_starts"),
    ("agent_steps=0", "agent_steps=0 must be at least 1"),
    ("checkpoint_every=0", "checkpoint_every=0 must be at least 1"),
    ("agent.encoder.strides=[4,0,1]", "agent.encoder.strides.1=0 must be at least 1"),
    ("agent.encoder.kernels=[8,4,30]", "do not fit an image"),
    ("agent.discount=7", "agent.discount=7.0 must be at most 1"),
    ("agent.learning_rate=-1", "above 0"),
    ("agent.clip_norm=0", "agent.clip_norm=0.0 must be above 0"),
    ("agent.atoms=1", "at least 2"),
    ("agent.v_min=10", "agent.v_min=10.0 must be below agent.v_max=10.0"),
    ("mlr.weight=-1", "at least 0"),
    ("mlr.decoder.heads=5", "multiple of mlr.decoder.heads"),
    ("+mlr.weight_by_task.alein=2", "did you mean alien"),
    ("replay.capacity=20", "for these windows"),
    ("loop.learning_starts=5", "no window is complete"),
    ("augmentation.pad=500", "augmentation.pad=500 must be at most 84"),
    ("augmentation.extra=[blurr]", "augmentation.extra.0=blurr is not one of affine, blur, resized_crop"),
    ("evaluation.environments=0", "at least 1"),
    ("evaluation.workers=-1", "evaluation.workers=-1 must be at least 0"),
    ("evaluation.workers=101", "at most evaluation.environments"),
    ("evaluation.timeout_seconds=0", "at least 1"),
    ("evaluation.epsilon=7", "at most 1"),
    ("environment.sticky_actions=1", "at most 0.99"),
    ("seed=-1", "at least 0"),
    ("threads=-1", "threads=-1 must be at least 0"),
    ("threads=1025", "threads=1025 must be at most 1024"),
    ("mlr.weight=1e300", "within"),
    ("device=foo", "auto, cpu, cuda"),
    ("run_dir=''", "name a folder"),
    ("logger.tags=['']", "logger.tags.0= must have 1 or more characters"),
]


def refusal(name, arguments, capsys) -> str:
    """The one line with which a command refuses."""
    code = launch(COMMANDS[name], lambda config: pytest.fail("it ran"), argv=arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 300
    assert not list(Path.cwd().iterdir())
    return err


@pytest.mark.parametrize("arguments, expected", REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_wrong_settings_are_one_line(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    bare = arguments in ("", "preset=tiny")
    settings = arguments.split() if bare else with_task("atari", tuple(arguments.split()))
    assert expected in refusal("atari", settings, capsys)


# Processor time


def run_script(arguments: list, folder: Path) -> tuple[subprocess.CompletedProcess, float]:
    """A finished command and the seconds of processor time that it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def quick(arguments: list, folder: Path) -> subprocess.CompletedProcess:
    """A command that must answer within two seconds of processor time and write nothing."""
    done, seconds = run_script(arguments, folder)
    assert seconds < 2, f"{arguments} took {seconds:.1f} s"
    assert not list(folder.iterdir())
    return done


@pytest.mark.parametrize("name, arguments, expected", [
    ("atari", [], "game has no value"),
    ("atari", ["game=pacmn"], "did you mean"),
    ("atari", ["game=pong", "replay.window=15"], "mlr.mask.cube_depth"),
    ("dmcontrol", ["task=walker_wlak"], "did you mean walker_walk?"),
    ("mwm", [], "task has no value"),
    ("mwm", ["task=dmc_walker_wlak"], "did you mean dmc_walker_walk?"),
])  # fmt: skip
def test_the_scripts_refuse_at_once(tmp_path, name, arguments, expected):
    done = quick([ROOT / f"scripts/train_{name}.py", *arguments], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name, shown", [
    ("atari", "preset=cpu|full|quick|tiny"), ("dmcontrol", "budget=100k|500k"), ("mwm", "fidelity=paper|released"),
])  # fmt: skip
def test_the_scripts_show_help_and_keys_at_once(tmp_path, name, shown):
    script = ROOT / f"scripts/train_{name}.py"
    done = quick([script, "--help"], tmp_path)
    assert done.returncode == 0 and shown in done.stdout and len(done.stdout.splitlines()) < 45
    done = quick([script, "--cfg", "job", TASK[name]], tmp_path)
    assert done.returncode == 0 and COMMANDS[name].build(yaml.safe_load(done.stdout)) == compose(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_refused_setting_and_cfg_never_import_torch(tmp_path, name):
    program = (
        f"import sys; from commands.train_{name} import train\n"
        f"for arguments in (['seed=x'], ['replay.window=15'], ['--cfg', 'job']):\n"
        f"    code = train('{name}', argv=['{TASK[name]}', *arguments])\n"
        "    print('answer', code, 'torch' in sys.modules)"
    )
    done, _ = run_script(["-c", program], tmp_path)
    answers = [line for line in done.stdout.splitlines() if line.startswith("answer")]
    assert answers == ["answer 2 False", "answer 2 False", "answer 0 False"]
