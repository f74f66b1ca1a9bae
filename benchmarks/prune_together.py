"""Milliseconds that a prune takes a member of a cohort: each finds its own mask on the CPU, or all in one pass.

    python benchmarks/prune_together.py [--device cuda] [--levels 12] [--contexts local global]

Members are in the threads of a cohort, in turns, as trials are, and are pruned by 20 % of what is left, level after
level; nothing is trained. Both sides must have the same masks. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from lth_trainable.models.networks import build
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.masks_together import Ranking
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.training.cohort import Cohort, Seat, current_seat
from lth_trainable.training.execution import Execution
from lth_trainable.training.requests import Pausing, Pruning

TASKS: dict[str, tuple[str, tuple[int, int, int], int]] = {
    "lenet_30": ("lenet_300_100", (1, 28, 28), 30),
    "lenet_64": ("lenet_300_100", (1, 28, 28), 64),
    "resnet20_8": ("resnet20", (3, 32, 32), 8),
}
UNCOUNTED = 2  # levels at the start: kernels are loaded, memory is asked for
KEPT = Fraction(4, 5)


def main() -> int:
    """Measure both sides in turns; returns the exit code, 1 if their masks differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contexts", nargs="+", choices=("local", "global"), default=["local", "global"])
    parser.add_argument("--criterion", choices=CRITERIA, default="large_final")
    parser.add_argument("--levels", type=int, default=12)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    found = {
        f"{name}, {context}": measured(name, context, options) for name in options.tasks for context in options.contexts
    }
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor()
    report = {"device": device, "torch": torch.__version__, "load_before": load, "tasks": found}
    print(json.dumps(report, indent=1))
    return 0 if all(each["same_masks"] for each in found.values()) else 1


def measured(name: str, context: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians and ranges of both sides, in milliseconds a member."""
    model, shape, k = TASKS[name]
    sides = {
        "apart": pruners(model, shape, context, k, options),
        "one_pass": pruners(model, shape, context, k, options),
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    for level in range(1, options.levels + 1):
        for side, members in sides.items():
            jobs = [functools.partial(job, pruner, 1 - KEPT**level, side == "one_pass") for pruner in members]
            found[side].append(1000 * seconds(jobs, options.device) / k)
    counted = {side: values[UNCOUNTED:] for side, values in found.items()}
    median = {side: statistics.median(values) for side, values in counted.items()}
    return {
        "k": k, "ms_a_member": {side: round(value, 3) for side, value in median.items()},
        "range": {side: [round(min(values), 3), round(max(values), 3)] for side, values in counted.items()},
        "ratio": round(median["apart"] / median["one_pass"], 2), "n": options.levels - UNCOUNTED,
        "same_masks": all(map(is_same, sides["apart"], sides["one_pass"])),
    }  # fmt: skip


def pruners(model: str, shape: tuple[int, int, int], context: str, k: int, options: argparse.Namespace) -> list[Pruner]:
    """Of k networks, with seeds 0 to k - 1."""
    found = []
    for seed in range(k):
        torch.manual_seed(seed)
        network = build(model, shape, 10).to(options.device)
        if options.device == "cuda" and any(isinstance(module, nn.Conv2d) for module in network.modules()):
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        found.append(Pruner(prunable_layers(network), CRITERIA[options.criterion], context=context, seed=seed))
    return found


def job(pruner: Pruner, sparsity: Fraction, one_pass: bool) -> None:
    """A member of a cohort: it waits until all do, prunes, and waits again."""
    seat = current_seat()
    assert seat is not None
    seat.ask(Pausing(learn=None))
    pruner.ranker = functools.partial(rank, seat) if one_pass else None
    pruner.prune(sparsity)
    seat.ask(Pausing(learn=None))


def rank(seat: Seat, ranking: Ranking) -> torch.Tensor | None:
    request = Pruning(learn=None, ranking=ranking)
    seat.ask(request)
    return request.found


def seconds(jobs: list[Callable[[], None]], device: str) -> float:
    """From the time when all members wait to that when all wait again."""
    times: list[float] = []

    def note() -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    outcomes = Cohort(jobs, Execution(device=device, replicas=len(jobs))).run(note)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return times[-1] - times[0]


def is_same(one: Pruner, other: Pruner) -> bool:
    """Whether both have found the same masks, level by level."""
    pairs = zip(one.levels, other.levels, strict=True)
    return all(a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a) for a, b in pairs)


if __name__ == "__main__":
    sys.exit(main())
