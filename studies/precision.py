"""Measure the effect of less precise products on an update: python -m studies.precision [key=value ...]

On a CPU, with the same weights, batches and random numbers at every precision, on random play in the real environments.
bfloat16 is computed as autocast does it; TF32 is emulated by rounding what enters a product to 10 bits of mantissa, as
is what bf16 leaves in float32. Sums are in float32 throughout, in an order that is not a GPU's.

Examples:
  python -m studies.precision --suite atari preset=quick
  python -m studies.precision --seeds 3 --out docs/precision_effects.csv
  python -m studies.precision --suite dmcontrol agent.batch_size=32 aux_optimizer.batch_size=4 --updates 20
"""

import argparse
import copy
import csv
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from harness.command_line import Options, at_least
from harness.config import ConfigError
from harness.messages import refuse

SUITES = ("atari", "dmcontrol")
PRECISIONS = ("tf32", "bf16")
COLUMNS = (
    "suite",
    "settings",
    "updates",
    "seeds",
    "precision",
    "quantity",
    "relative_difference",
    "largest",
    "cosine",
)


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__, "python -m studies.precision")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings, such as preset=quick")
    parser.add_argument("--suite", choices=SUITES, help="measure this one alone")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="of weights and random numbers, each with a batch")
    parser.add_argument("--steps", type=at_least(1), default=300, help="agent steps of random play, for the batches")
    parser.add_argument("--updates", type=at_least(0), default=0, help="in float32 before the one that is measured")
    parser.add_argument("--out", type=Path, help="CSV file for the numbers; rows are added to it")
    try:
        options = parser.parse_intermixed_args(arguments)
        rows = [row for name in SUITES if options.suite in (None, name) for row in measure(name, options)]
        show(rows)
        if options.out:
            add(options.out, rows)
    except (ConfigError, OSError) as error:
        return refuse(error)
    return 0


def measure(name: str, options: argparse.Namespace) -> list[dict]:
    """A row for each precision and each loss or gradient."""
    from studies.fidelity.lab import Sizes  # imports torch

    sizes = Sizes(seeds=options.seeds, windows=1, steps=options.steps, counted_steps=1, updates=1, draws=1)
    lab = import_module(f"studies.fidelity.{name}").make_lab(options.settings, sizes)
    runs = {precision: [] for precision in ("fp32", *PRECISIONS)}
    for seed in lab.seeds:
        start = trained(lab, seed, options.updates)
        for precision, results in runs.items():
            results.append(update(lab, seed, precision, start))
    settings = " ".join(options.settings) or "preset=full"
    return [
        {"suite": name, "settings": settings, "updates": options.updates, "seeds": options.seeds}
        | {"precision": precision, "quantity": quantity}
        | compare([run[quantity] for run in runs[precision]], [run[quantity] for run in runs["fp32"]])
        for precision in PRECISIONS
        for quantity in runs["fp32"][0]
    ]


def trained(lab, seed: int, updates: int) -> tuple[dict, dict]:
    """States of agent and replay after some updates in float32."""
    agent, replay = lab.agent(seed, "precision=fp32"), lab.replay
    before = replay.state()
    for _ in range(updates):
        agent.update(replay, replay.capacity, "update")
    states = copy.deepcopy((agent.state(), replay.state()))
    replay.load_state(before)
    return states


def update(lab, seed: int, precision: str, start: tuple[dict, dict]) -> dict:
    """Losses [1] and gradients, flat by module, of one update from the states in `start`."""
    import torch

    agent, replay = lab.agent(seed, f"precision={precision}"), lab.replay
    before = replay.state()
    agent.load_state(start[0])
    replay.load_state(start[1])
    with nullcontext() if precision == "fp32" else tf32():
        metrics = agent.update(replay, replay.capacity, "update")
    replay.load_state(before)
    modules = dict(agent.networks.items())
    if agent.auxiliary is not None:
        modules |= dict(agent.auxiliary.owned.items())
    values = {key: value.view(1) for key, value in metrics.items() if key.endswith("loss")}
    for name, module in modules.items():
        gradients = [weight.grad.flatten() for weight in module.parameters() if weight.grad is not None]
        if gradients:
            values[f"gradient of {name}"] = torch.cat(gradients)
    return values


def tf32():
    """A context in which products of float32 round their operands to 10 bits of mantissa, as TF32 does."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    operands = {  # places of each operation's operands; a bias is added in full
        aten.mm: (0, 1),
        aten.bmm: (0, 1),
        aten.addmm: (1, 2),
        aten.baddbmm: (1, 2),
        aten.convolution: (0, 1),
        aten.convolution_backward: (0, 1, 2),
    }

    def rounded(value):
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        bits = value.contiguous().view(torch.int32)
        return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)

    class Rounding(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            places = operands.get(func.overloadpacket, ())
            arguments = [rounded(value) if place in places else value for place, value in enumerate(args)]
            return func(*arguments, **(kwargs or {}))

    return Rounding()


def compare(values: list, references: list) -> dict:
    """Norm of the difference over the reference's, mean and largest of the seeds, and the mean cosine of gradients."""
    pairs = [(value.double(), reference.double()) for value, reference in zip(values, references, strict=True)]
    differences = [float((value - reference).norm() / reference.norm()) for value, reference in pairs]
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in pairs if len(a) > 1]
    return {
        "relative_difference": f"{sum(differences) / len(differences):.1e}",
        "largest": f"{max(differences):.1e}",
        "cosine": f"{sum(cosines) / len(cosines):.6f}" if cosines else "",
    }


def show(rows: list[dict]) -> None:
    for line in (COLUMNS, ["---"] * len(COLUMNS), *([row[column] for column in COLUMNS] for row in rows)):
        print(f"| {' | '.join(map(str, line))} |")


def add(path: Path, rows: list[dict]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
