"""Trial finite: NaN and infinity in reward, loss, gradient, weight, moment, priority, score."""

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file

from harness import parts as parts_module
from harness.logs import CsvLog
from harness.run_folder import RunFolder
from tests.trials.runs import SUITES, Case, Run, one_line


def finite(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    for number in range(count):
        suite = random.choice(SUITES)
        fault = random.choice([name for name in FAULTS if name != "priority" or suite == "atari"])
        value = random.choice([float("nan"), float("inf"), float("-inf")])
        run = Run(scratch / f"run-{number}", suite)
        code = run.finish(prepare=partial(poison, fault, value, Random(random.random())))
        problem = f"exit {code}: {run.errors}" if code != 70 else one_line(run.errors)
        if not RunFolder(run.folder).failure.is_file():
            problem += " no failure.json"
        problem += not_finite(run.folder)
        yield Case(fault, problem and f"{suite} {value}: {problem}")
        shutil.rmtree(run.folder)


def not_finite(folder: Path) -> str:
    """Files of a run that hold a NaN or an infinity."""
    found = [
        str(path.relative_to(folder))
        for path in folder.rglob("*.safetensors")
        if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in load_file(path).values())
    ]
    for path in (RunFolder(folder).metrics, RunFolder(folder).evaluations):
        if any(re.fullmatch(r"nan|-?inf", value or "") for row in CsvLog(path).read() for value in row.values()):
            found.append(path.name)
    return f"not finite: {found}" if found else ""


def poison(fault: str, value: float, random: Random) -> None:
    """Makes the parts of the run that this process trains go wrong once."""
    make_parts = parts_module.make_parts

    def poisoned(*arguments):
        parts = make_parts(*arguments)
        FAULTS[fault](parts, value, random)
        return parts

    parts_module.make_parts = poisoned


def in_call(owner, name: str, number: int, before: Callable[[], None] | None = None, result=None) -> None:
    """Calls `before` before call `number` of a method, or changes its result by `result`."""
    method, calls = getattr(owner, name), itertools.count()

    def changed(*arguments, **named):
        due = next(calls) == number
        if due and before:
            before()
        value = method(*arguments, **named)
        return result(value) if due and result else value

    setattr(owner, name, changed)


def poison_reward(parts, value: float, random: Random) -> None:
    in_call(parts.environment, "step", random.randrange(25), result=lambda step: (step[0], value, *step[2:]))


def poison_score(parts, value: float, random: Random) -> None:
    in_call(parts, "evaluate", 0, result=lambda rows: [row | {"score": value} for row in rows])


def poison_loss(parts, value: float, random: Random) -> None:
    backward = torch.Tensor.backward

    def wrong(tensor, *arguments, **named):
        torch.Tensor.backward = backward
        return backward(tensor * value, *arguments, **named)

    in_call(parts.agent, "update", random.randrange(10), before=lambda: setattr(torch.Tensor, "backward", wrong))


def poison_gradient(parts, value: float, random: Random) -> None:
    parameter = random.choice(parts.agent.trained_parameters())

    def wrong(gradient):
        handle.remove()
        return torch.full_like(gradient, value)

    handle = parameter.register_hook(wrong)


def poison_weight(parts, value: float, random: Random) -> None:
    weights = random.choice(parts.agent.trained_parameters()).data
    place = tuple(random.randrange(side) for side in weights.shape)
    in_call(parts.agent, "update", random.randrange(10), before=lambda: weights[place].fill_(value))


def poison_moment(parts, value: float, random: Random) -> None:
    def wrong() -> None:
        states = [state for optimizer in parts.agent.optimizers.values() for state in optimizer.state.values()]
        random.choice(states)[random.choice(["exp_avg", "exp_avg_sq"])].fill_(value)

    in_call(parts.agent, "update", random.randrange(1, 10), before=wrong)


def poison_priority(parts, value: float, random: Random) -> None:
    method, number = parts.replay.update_priorities, random.randrange(10)
    calls = itertools.count()
    parts.replay.update_priorities = lambda indices, kl: method(indices, kl * value if next(calls) == number else kl)


FAULTS = {
    "reward": poison_reward,
    "score": poison_score,
    "loss": poison_loss,
    "gradient": poison_gradient,
    "weight": poison_weight,
    "moment": poison_moment,
    "priority": poison_priority,
}
