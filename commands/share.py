"""Packs a trained agent to share: a card with every score, weights, configuration, rows and a video.

mlr share RUN --out results/agents/NAME                    # plays the run's last evaluation again and films it
mlr share RUN --out FOLDER --episodes 30 --note "Plays LEFT all the time."
mlr share FOLDER --push USER/NAME                          # a packed agent to the Hugging Face Hub

The packed folder is a run folder without checkpoints: mlr evaluate, verify, compare and load_agent take it, mlr
visualize where it has the auxiliary's tensors or is of Masked World Models.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from harness.command_line import Options, at_least, refusing
from harness.config import ConfigError, as_dict, require
from harness.episodes import own_columns
from harness.errors import NotFinite
from harness.exit_codes import DONE
from harness.files import installation
from harness.logs import CsvLog
from harness.messages import in_one_line
from harness.report.scores import score_columns
from harness.run_folder import RunFolder, read_config, read_manifest
from recipes import load_config, load_recipe
from recipes.changes import method_label

CARD = "README.md"  # names of the Hub
VIDEO = "replay.mp4"
SCORES = "scores.csv"
PACKAGES = ("ale-py", "mujoco", "dm_control", "metaworld")  # packages whose versions decide scores

TEXT = """---
{metadata}
---

# {task}: {label}

{video}Trained with the package `mlr-rl` in PyTorch.

| | |
|---|---|
{facts}

## Scores

| evaluation | episodes | mean | standard deviation | made with |
|---|---|---|---|---|
| after training | {count} | {then} | {versions_then} |
| the same weights and first starts, played again for this card | {count_now} | {now} | {versions_now} |

{agreement}

{episodes}

## Use

```python
from recipes import load_agent, load_environment

agent = load_agent("FOLDER")  # of this card; from the Hub: huggingface_hub.snapshot_download("USER/NAME")
environment = load_environment("FOLDER", seed=0)
```

```
mlr evaluate FOLDER --episodes 100 --video
mlr verify FOLDER/{scores}            # plays the episodes of this card again, without the weights
```

## Limits

{limits}
"""


@refusing(ConfigError, NotFinite, OSError)
def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("run", type=Path, help="run folder, or a packed agent to push")
    parser.add_argument("--out", type=Path, help="folder of the packed agent, new or empty")
    parser.add_argument("--agent-steps", type=int, help="weights of this agent step, not the newest")
    parser.add_argument("--episodes", type=at_least(1), help="to play again: by default as many as after training")
    parser.add_argument("--note", default="", help="a sentence for the card's limits")
    parser.add_argument("--push", metavar="USER/NAME", help="the Hub's model; needs `hf auth login`")
    options = parser.parse_args(arguments)
    hub = import_hub()
    if options.push:
        require(options.push.count("/") == 1, f"--push {options.push}: write USER/NAME")
        require(hub.get_token() is not None, "--push needs a login: hf auth login, or set HF_TOKEN")
    folder = options.run
    if not (folder / CARD).is_file():
        folder = options.out
        require(folder is not None, "add --out FOLDER, where the agent is to be packed")
        pack(options.run, folder, hub, options.agent_steps, options.episodes, options.note)
        print(f"packed {folder}, {size(folder) / 1e6:.1f} MB, card {folder / CARD}")
    elif not options.push:
        raise ConfigError(f"{folder} is packed already: add --push USER/NAME, or give the run folder")
    if options.push:
        print(f"pushed {push(folder, options.push, hub)}")
    return DONE


def import_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(f"cards and the Hub need huggingface_hub: {installation('share')}") from error
    return huggingface_hub


def pack(run: Path, out: Path, hub: ModuleType, agent_steps: int | None, episodes: int | None, note: str) -> None:
    """Writes a run's agent, with what its last evaluation plays now, to the folder `out`.

    Raises ConfigError for a run without weights or their evaluation, and for a folder that holds something.
    """
    config, source, target = load_config(run), RunFolder(run), RunFolder(out)
    weights = source.saved_weights(agent_steps)
    rows = [row for row in CsvLog(source.evaluations).read() if int(row["agent_steps"]) == int(weights.stem)]
    require(bool(rows), f"{run} has no evaluation of its weights after agent step {int(weights.stem)}: train on")
    require(not out.exists() or out.is_dir() and not any(out.iterdir()), f"--out {out} is not empty")
    try:
        fill(target, source, weights, config, rows, max(episodes or 0, len(rows)))
        (out / CARD).write_text(card(out, config, load_recipe(config), rows, hub, note))
    except BaseException:  # half a packed agent stands in the way of the next call
        shutil.rmtree(out, ignore_errors=True)
        raise


def fill(target: RunFolder, source: RunFolder, weights: Path, config: Any, rows: list[dict], episodes: int) -> None:
    """Copies what `source` has of the agent with these weights, and plays the episodes of `rows` with it again."""

    from harness.checkpoint import write_tensors
    from harness.run_evaluation import evaluate_run
    from harness.weights import AUXILIARY, RUN, read_auxiliary, read_tensors

    recipe = load_recipe(config)
    about = {"version": read_manifest(source.path).get("version"), **recipe.suite.units(config, int(weights.stem))}
    target.weights.mkdir(parents=True)
    header = {RUN: json.dumps(about | {"config": as_dict(config)})}  # older versions wrote none
    write_tensors(read_tensors(weights), target.weights / weights.name, header)
    if config.auxiliary_section is not None:
        with suppress(ConfigError):  # without a checkpoint there are the weights alone
            agent_steps, tensors = read_auxiliary(source, config)
            if agent_steps == int(weights.stem):
                write_tensors(tensors, target.path / AUXILIARY)
    for name in ("config", "manifest", "metrics", "evaluations", "episodes"):
        if getattr(source, name).is_file():
            shutil.copyfile(getattr(source, name), getattr(target, name))
    for curve in source.media.glob("learning_curve.png"):
        shutil.copyfile(curve, target.path / curve.name)
    evaluate_run(
        target.path, config, recipe, agent_steps=None, episodes=episodes, seed=config.seed, device="auto", video=True,
        csv=target.path / SCORES, workers=None, evaluation=int(rows[0].get("evaluation", 0)),
    )  # fmt: skip
    for video in target.media.iterdir():
        video.rename(target.path / VIDEO)
    target.media.rmdir()


def card(out: Path, config: Any, recipe: Any, rows: list[dict], hub: ModuleType, note: str) -> str:
    """Text of the card; `rows` are those of the evaluation after training."""
    folder, manifest = RunFolder(out), read_manifest(out)
    columns, start = score_columns(read_config(out), manifest), manifest["starts"][-1]
    again = read_manifest(out / f"{Path(SCORES).stem}.episodes")["starts"][-1]
    then = [float(row["score"]) for row in rows]
    played = CsvLog(out / SCORES).read()
    now = [float(row["score"]) for row in played]
    equal = sum(before == after for before, after in zip(then, now, strict=False))
    weights = folder.saved_weights()
    units = recipe.suite.units(config, int(weights.stem))
    label = f"{method_label(config)}, preset {config.preset}, seed {config.seed}"
    facts = {
        "task": f"{config.suite}, {config.task}",
        "method": f"{method_label(config)}, agent `{config.method}`",
        "setting": f"preset {config.preset}, fidelity {config.fidelity}, seed {config.seed}; `config.yaml` has all",
        "length": ", ".join(f"{count:,} {unit.replace('_', ' ')}" for unit, count in units.items()),
        "commit": columns["version"],
        "command": f"`{' '.join(start['command'])}`",
        "hardware": columns["hardware"],
        "weights": f"`{weights.relative_to(out)}`, {weights.stat().st_size / 1e6:.1f} MB: what acting needs",
    }
    limits = ["One run with one seed says nothing about the spread between seeds."]
    if config.preset != "full":
        limits.append("Networks, batches or length are smaller than the paper's, so no published score compares.")
    limits += [note] if note else []
    result = hub.EvalResult(
        task_type="reinforcement-learning", task_name="reinforcement-learning", dataset_type=config.task,
        dataset_name=config.task, metric_type="mean_reward", metric_name="mean_reward",
        metric_value=spread(now, " +/- "),
    )  # fmt: skip
    metadata = hub.ModelCardData(
        license="mit", library_name="mlr-rl", pipeline_tag="reinforcement-learning",
        model_name=f"{config.task}, {label}",
        tags=["reinforcement-learning", config.suite, config.task, config.method, method_label(config)],
        eval_results=[result],
    )  # fmt: skip
    own = own_columns(played[0])
    table = [["episode", "after training", "played again", *own], ["---"] * (3 + len(own))]
    for i, row in enumerate(played):
        before = f"{then[i]:.1f}" if i < len(then) else "-"
        table.append([str(i), before, f"{now[i]:.1f}", *(f"{float(row[name]):g}" for name in own)])
    return TEXT.format(
        metadata=metadata.to_yaml(), task=config.task, label=label, scores=SCORES,
        video=f"[Video of the first episode]({VIDEO}). " if (out / VIDEO).is_file() else "",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        count=len(then), then=spread(then, " | "), versions_then=versions(start),
        count_now=len(now), now=spread(now, " | "), versions_now=versions(again),
        agreement=f"{equal} of the {len(then)} scores after training came again to the last digit.",
        episodes="\n".join(f"| {' | '.join(cells)} |" for cells in table),
        limits="\n".join(f"- {limit}" for limit in limits),
    )  # fmt: skip


def spread(scores: list[float], between: str) -> str:
    return f"{np.mean(scores):.1f}{between}{np.std(scores):.1f}"


def versions(start: dict) -> str:
    """Versions and kind of CPU of a start."""
    found = {name: start.get("versions", {}).get(name) for name in PACKAGES}
    parts = [f"{name} {version}" for name, version in found.items() if version]
    return ", ".join([f"torch {start['torch']}", *parts, start["cpu"]])


def push(folder: Path, name: str, hub: ModuleType) -> str:
    """Address of the model that the folder was pushed to. Raises ConfigError with what the Hub answered."""
    client = hub.HfApi()
    try:
        client.create_repo(name, exist_ok=True)
        return str(client.upload_folder(repo_id=name, folder_path=folder, commit_message="Trained agent"))
    except Exception as error:  # every release of huggingface_hub has other classes, some of its HTTP library
        why = in_one_line(str(error)) or type(error).__name__
        raise ConfigError(f"the Hub did not take {name}: {why}; {folder} is whole") from error


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
