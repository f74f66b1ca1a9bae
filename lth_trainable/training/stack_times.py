"""Measures how long a step of a stack takes, for one number of networks after another: `--replicas auto`.

`python -m lth_trainable.training.stack_times` is a process of its own for that, so that the command that asks never
uses the GPU itself, and goes on if this one dies. It reads a request from standard input and answers on standard
output, each line one JSON object: first where it is, then one for every number of networks as soon as it is measured,
at last why there are no more.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.splits import Dataset
from lth_trainable.errors import UserError
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.stacking.run import NotStackable, Run
from lth_trainable.stacking.slots import Member
from lth_trainable.stacking.stack import Stack
from lth_trainable.stacking.template import template_of
from lth_trainable.stacking.times import Time
from lth_trainable.training.execution import Execution, driver_version, fingerprint, is_no_room
from lth_trainable.training.sharing import in_bounds
from lth_trainable.training.trial import Trial

LEAST_GAIN = 0.05  # of the time of a step a network, at twice as many networks; below it, more are not measured
TIMED_SECONDS = 0.1  # of steps that are timed together
REPEATS = 3  # of which the fastest counts
WARM_UP = 3  # steps: one by one, captured, replayed
# what each member of a cohort has on the device beside its slot, in sizes of its weights: weights, gradients, two of
# the optimiser, a mask, and a snapshot
OF_MEMBER = 6


def measure(
    spec: TrialSpec, execution: Execution, numbers: Sequence[int], seconds: float, found: Callable[[Time], None]
) -> str:
    """Measure stacks of these numbers of networks, in ascending order; returns why the largest were not, or "".

    seconds: after which no other number is begun. found: called with each result at once. Raises `NotStackable`, and
    `UserError` if not even one network can be trained.
    """
    until = time.perf_counter() + seconds
    with in_bounds(execution, spec):
        data = load_dataset(spec.dataset, execution.data_root, spec.split_seed, spec.image_size)
        if not isinstance(data, Dataset):
            raise NotStackable("its images are made one by one, by DataLoaders")
        trial, last = Trial(spec, data, execution, None), None
        for k in sorted(numbers):
            if last is not None and time.perf_counter() > until:
                return "the time was over"
            try:
                if last is None:
                    _time(trial, k)  # a device that was idle is slow at first
                now = _time(trial, k)
            except Exception as error:
                if last is None or not is_no_room(error):
                    raise
                return f"the memory is too small for {k}"
            finally:
                _free(execution)
            found(now)
            if last is not None and now.step_s / now.k > (1 - LEAST_GAIN) * last.step_s / last.k:
                return f"{now.k} are no faster than {last.k}, network by network"
            last = now
    return ""


def _free(execution: Execution) -> None:
    gc.collect()
    if torch.device(execution.device).type == "cuda":
        torch.cuda.empty_cache()


def _time(trial: Trial, k: int) -> Time:
    learn, loader = trial.learn, trial.dls.train
    weights = sum(value.numel() * value.element_size() for value in trial.model.parameters())
    of_members = torch.empty(k * OF_MEMBER * weights, dtype=torch.uint8, device=loader.device)
    stack = Stack(
        template_of(trial.spec, loader), learn.opt.opt, loader, learn.loss_func, trial.spec.precision, k
    )  # fmt: skip
    masks = {name: torch.ones_like(value) for name, value in trial.model.named_parameters() if value.ndim > 1}
    stack.load_all({0: Member(model=trial.model, optimizer=learn.opt.opt, factors=masks)})
    runs = dict(zip(range(k), _runs(trial.spec, loader), strict=False))
    most = max(1, loader.n // loader.bs)  # steps of a run, all of one size

    def train(n: int) -> None:
        stack.train({slot: run.split(n)[0] for slot, run in runs.items()})

    for _ in range(WARM_UP):
        train(1)
    once = _seconds(loader.device, lambda: train(1))
    n = max(1, min(most, int(TIMED_SECONDS / once)))
    step = min(_seconds(loader.device, lambda: train(n)) for _ in range(REPEATS)) / n
    slots, valid = list(runs), trial.dls.valid
    for _ in range(WARM_UP - 1):
        stack.evaluate(slots, valid)
    validation = _seconds(loader.device, lambda: stack.evaluate(slots, valid))
    del of_members
    return Time(k=k, step_s=step, validation_s=validation)


def _runs(spec: TrialSpec, loader: Any) -> Iterator[Run]:
    """An epoch of one member after another, each in an order of its own."""
    full, rest = divmod(loader.n, loader.bs)
    sizes = (loader.bs,) * full + ((rest,) if rest else ())
    order, draws = loader.order(), loader.draws()
    for number in itertools.count():
        yield Run(
            order=order.roll(997 * number), sizes=sizes, draws=draws, rates=(spec.lr,) * len(sizes),
            seeds=tuple(range(len(sizes))),
        )  # fmt: skip


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def answer(request: Mapping[str, Any], say: Callable[[Mapping[str, Any]], None]) -> None:
    """Measure what a request asks for, and say each result.

    Request: "spec" (canonical), "execution" (arguments of `Execution`), "data_root" (or null), "numbers" of networks,
    "seconds", and "known": the places for which nothing is to be measured. The first thing said has "place", the
    fingerprint of trials here and the version of the GPU's driver. The last one has "ended" (why not all numbers were
    measured, or ""), "refused" (why networks are not trained so), or "error".
    """
    root = request["data_root"]
    try:
        execution = Execution(**{**request["execution"], "data_root": Path(root) if root else None})
        spec = spec_from_dict(request["spec"])
        place = {**fingerprint(execution), "driver": driver_version()}
        say({"place": place})
        numbers = [] if place in request["known"] else request["numbers"]
        why = measure(spec, execution, numbers, request["seconds"], lambda found: say(asdict(found))) if numbers else ""
    except NotStackable as error:
        say({"refused": one_line(str(error))})
    except UserError as error:
        say({"error": one_line(str(error))})
    except Exception as error:  # a plug-in may raise anything
        say({"error": one_line(f"{type(error).__name__}: {error}")})
    else:
        say({"ended": why})


if __name__ == "__main__":
    answer(json.load(sys.stdin), lambda line: print(json.dumps(line), flush=True))
