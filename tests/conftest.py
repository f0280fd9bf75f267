"""Runs and configurations that many tests share."""

import copy
import functools
import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atari.config import AtariConfig
from auxiliaries import AUXILIARIES
from dmcontrol.config import DMControlConfig
from dmcontrol.rendering import choose_backend
from harness.config import ConfigError
from recipes import COMMANDS

ROOT = Path(__file__).parents[1]
AUXILIARIES_OF = {
    "atari": [name for name in AUXILIARIES if name != "autoencoder"],
    "dmcontrol": [*AUXILIARIES],
    "mwm": [],
}

# Tests run side by side, and on sizes for which several threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Whole runs, sweeps, studies, and what starts many processes, composes or draws a lot.
SLOW = {
    "test_ablations", "test_any_task", "test_attempt", "test_auxiliary_runs", "test_background", "test_capture",
    "test_curves", "test_dmcontrol_runs", "test_environments", "test_extending", "test_fidelity",
    "test_golden_other_sizes", "test_golden_sets", "test_mwm_runs", "test_operations", "test_own_environment_runs",
    "test_phases", "test_plan", "test_precision", "test_report", "test_runs", "test_speed", "test_sweep",
    "test_torture", "test_trackers", "test_unchanged_runs", "test_verify", "test_visualize",
    "test_world_model",
}  # fmt: skip
# Tests of other files that take several seconds of processor time.
SLOW |= {
    "test_a_new_process_goes_on_from_a_checkpoint", "test_an_evaluation_depends_on_weights_index_and_seed_alone",
    "test_an_output_that_is_gone_ends_the_printing_alone",
    "test_an_output_that_takes_no_more_is_one_line_and_the_run_goes_on",
    "test_both_orders_are_bit_identical_and_updates_see_only_complete_windows",
    "test_every_combination_is_valid_and_survives_a_file_and_a_process",
    "test_every_figure_is_a_png_a_svg_and_a_csv_and_two_calls_write_the_same_bytes",
    "test_intervals_agree_with_all_resamples",
    "test_texts_are_large_enough_to_print_and_nothing_is_cut_off_or_covered",
    "test_the_document_has_the_facts_of_every_game", "test_the_page_has_every_auxiliary_and_its_numbers",
    "test_the_score_file_of_a_real_run_stands_alone", "test_traces",
    "test_two_equal_runs_are_equal_and_another_seed_is_not",
    "test_a_whole_run_without_optional_libraries_and_git_leaves_its_tables",
    "test_kernels_compile_for_an_h100_without_spills_and_with_wide_stores", "test_kernels_compute_what_torch_does",
    "test_what_a_chosen_file_says_wins_over_the_base",
    "test_without_atari_py_the_study_prints_the_facts_alone",
}  # fmt: skip


# Tests that take minutes, in part of waiting. Workers of `make test` begin with them, so that all end together.
LONGEST = [
    "test_runs_that_are_killed_starved_and_misled_come_out_whole",
    "test_an_array_of_both_suites_is_warned_put_back_killed_and_ends_complete",
    "test_runs_killed_at_random_finish_exactly_once_each",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if {item.path.stem, item.originalname} & SLOW:
            item.add_marker("slow")
    result = yield  # pytest leaves out what is not asked for
    items[:] = longest_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
    return result


def longest_first(items: list, workers: int) -> list:
    """The tests in the order in which xdist cuts them into equal shares, one for each worker."""
    longest = [item for name in LONGEST for item in items if item.originalname == name]
    others = iter([item for item in items if item not in longest])
    shares = [longest[worker::workers] for worker in range(workers)]
    for share in shares[:-1]:
        share.extend(itertools.islice(others, max(0, len(items) // workers - len(share))))
    return [*itertools.chain(*shares), *others]


def pytest_runtest_setup(item):
    if item.get_closest_marker("gl") and missing_opengl():
        pytest.skip(missing_opengl())
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA device")


@pytest.fixture(autouse=True)
def few_learning_curves(monkeypatch):
    """A run in the process of a test draws no learning curve: that takes as long as all the rest.

    Runs of fixtures that several tests share draw theirs.
    """
    if "harness.run" in sys.modules:
        monkeypatch.setattr("harness.run.draw_run", lambda *_: "not drawn")


@functools.cache
def missing_opengl() -> str:
    """Why nothing can be drawn here; empty if it can."""
    try:
        choose_backend()
    except ConfigError as error:
        return str(error)
    return ""


def make_config(run_dir: Path, *overrides: str) -> AtariConfig:
    """A tiny run of Pong, or of the game among `overrides`, in `run_dir`, composed as the command line does."""
    task = [] if any(key.startswith(("game=", "env=")) for key in overrides) else ["game=pong"]
    return composed("atari", run_dir, *task, *overrides)


def make_dmcontrol_config(run_dir: Path, *overrides: str) -> DMControlConfig:
    """A tiny run of cartpole_swingup, or of the task among `overrides`, composed as the command line does."""
    task = [] if any(key.startswith(("task=", "domain=", "env=")) for key in overrides) else ["task=cartpole_swingup"]
    return composed("dmcontrol", run_dir, *task, *overrides)


def composed(name: str, run_dir: Path, *settings: str) -> Any:
    return replace(copy.deepcopy(tiny(name, *settings)), run_dir=str(run_dir))


@functools.cache
def tiny(name: str, *settings: str) -> Any:
    """A configuration without its folder. Each is composed once: that takes longer than many a test."""
    return COMMANDS[name].resolve(["preset=tiny", "device=cpu", "threads=1", *settings])


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a tiny run that trained, evaluated and drew."""
    from harness.run import run
    from tests.recipes import ATARI

    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(make_config(folder), ATARI) == 0
    return folder


@pytest.fixture(scope="session")
def finished_dmcontrol_run(tmp_path_factory) -> Path:
    """The folder of a tiny run that trained, evaluated and drew."""
    from harness.run import run
    from tests.recipes import DMCONTROL

    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(make_dmcontrol_config(folder), DMCONTROL) == 0
    return folder
