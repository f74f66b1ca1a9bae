"""Many small networks at once: an epoch of a stack, of a cohort of trials, of a trial alone, and of a bare loop.

    python benchmarks/replicas.py [--device cuda] [--tasks lenet resnet20 conv4] [--sides stack cohort] [--repeats 2]
        [--compile] [--profile] [--tiny]

All figures are seconds an epoch *a model*. *stack*: `Stack.train` with the validations of the epoch on its way, members
copied in before and out afterwards, without trials. *cohort*: K trials by `run_cohort`, with all that a trial does.
*alone*: one trial by `run_trial`. *bare* (GPUs): one network without a trial, a CUDA graph of a step replayed
(`gpu_step.py`); K networks one after another take K times that. Medians over all epochs but the first two of each run,
of `repeats` runs in turns. `--profile` prints what the device did in twenty steps of the stack. `--tiny`: digits and
few members, for a CPU. `--compile`: stacks, cohorts and trials alone through `torch.compile`, whose time is in the
first epoch of the first cohort; with `LTH_CACHE=$(mktemp -d)` nothing has been compiled before.

Of *cohort* it also prints where an epoch's time goes, for all members together: *turns* of their own Python (seconds,
and how many), the conductor's *launches* of steps and validations, its *waits* for what they found, copies *in and
out*, and the *rest*. On a CPU the work itself is in the launches. Prints one JSON object. Images are random, as many
and as large as those of MNIST and CIFAR-10.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import gpu_step
from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.loaders import resident_loaders
from lth_trainable.models.networks import build
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.run import Run
from lth_trainable.stacking.slots import Member
from lth_trainable.stacking.stack import Stack
from lth_trainable.store.store import Store
from lth_trainable.training.cohort import Cohort, run_cohort, stack_compiler
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.learner import optimizer_of
from lth_trainable.training.run import run_trial

MNIST, CIFAR = "benchmarks.random_images:like_mnist", "benchmarks.random_images:like_cifar10"
TASKS: dict[str, tuple[int, dict[str, Any]]] = {
    "lenet": (64, {
        "dataset": MNIST, "model": "lenet_300_100", "batch_size": 60, "lr": 1.2e-3, "validate_every": 100,
    }),
    "resnet20": (8, {
        "dataset": CIFAR, "model": "resnet20", "batch_size": 128, "optimizer": "sgd", "lr": 0.03, "beta2": None,
        "eps": None, "augment": "flip_shift", "precision": "bf16",
    }),
    "conv4": (16, {"dataset": CIFAR, "model": "conv_4", "batch_size": 60, "lr": 3e-4, "precision": "bf16"}),
}  # fmt: skip
TINY: dict[str, tuple[int, dict[str, Any]]] = {
    "lenet": (4, {"model": "lenet_300_100", "batch_size": 60, "validate_every": 10}),
    "resnet20": (2, {"model": "resnet20", "batch_size": 60}),
    "conv4": (2, {"model": "conv_4", "batch_size": 60}),
}
UNCOUNTED = 2  # epochs at the start: eager steps, captures, the choice of kernels


def main() -> int:
    """Measure the sides in turns; returns the exit code, 1 if something was not stacked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--k", type=int, help="members, in place of those of the task")
    parser.add_argument("--precision", help="in place of that of the task")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--compile", action="store_true", help="all but bare through torch.compile")
    parser.add_argument("--profile", action="store_true", help="what the device did in twenty steps of the stack")
    parser.add_argument("--tiny", action="store_true", help="digits and few members, to try this on a CPU")
    options = parser.parse_args()
    options.data_root = None
    found, notes = {}, []
    for name in options.tasks:
        k, fields = (TINY if options.tiny else TASKS)[name]
        k = options.k or k
        if options.precision:
            fields = {**fields, "precision": options.precision}
        spec = TrialSpec(**fields, control="dense", epochs=options.epochs)
        seconds: dict[str, list[float]] = {}
        options.split, options.first = {}, []
        for _ in range(options.repeats):
            for side in options.sides:
                if side == "bare" and options.device == "cpu":
                    continue
                print(f"{name} {side} ...", file=sys.stderr, flush=True)
                seconds.setdefault(side, []).extend(SIDES[side](spec, k, options, notes.append))
        found[name] = {
            "k": k, "seconds_an_epoch_of_a_cohort": options.split, "precision": spec.precision,
            "compiled": options.compile, "seconds_of_first_epochs_of_cohorts": options.first,
            "seconds_an_epoch_a_model": {side: round(statistics.median(of), 5) for side, of in seconds.items()},
            "range": {side: [round(min(of), 5), round(max(of), 5)] for side, of in seconds.items()},
            "n": {side: len(of) for side, of in seconds.items()},
        }  # fmt: skip
        print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor()
    print(json.dumps({"device": device, "torch": torch.__version__, "tasks": found, "refused": notes}, indent=1))
    return 1 if notes else 0


def execution_of(options: argparse.Namespace, replicas: int = 1) -> Execution:
    return Execution(
        device=options.device, deterministic=options.deterministic, replicas=replicas, compile=options.compile
    )  # fmt: skip


def bare(spec: TrialSpec, k: int, options: argparse.Namespace, note: Callable[[str], None]) -> list[float]:
    """One network without a trial."""
    return gpu_step.bare(spec, options)


def alone(spec: TrialSpec, k: int, options: argparse.Namespace, note: Callable[[str], None]) -> list[float]:
    """One trial, from its record."""
    with tempfile.TemporaryDirectory() as folder:
        record = run_trial(spec, Store(folder), execution=execution_of(options), on_note=note)
    return [row["seconds"] for row in record["epochs"][UNCOUNTED:]]


def cohort(spec: TrialSpec, k: int, options: argparse.Namespace, note: Callable[[str], None]) -> list[float]:
    """K trials in one cohort; an epoch of one of them takes as long as that of all."""
    execution, clock = execution_of(options, k), Clock()
    with tempfile.TemporaryDirectory() as folder, clock.watching():
        jobs = [
            functools.partial(
                run_trial, replace(spec, seed=seed), Store(Path(folder, str(seed))), execution=execution,
                on_epoch=None if seed else clock.note, on_note=note,
            )
            for seed in range(k)
        ]  # fmt: skip
        outcomes = run_cohort(jobs, execution, spec)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    options.split = clock.split()
    first: Any = outcomes[0]
    options.first.append(round(first["epochs"][0]["seconds"], 1))
    return [row["seconds"] / k for row in first["epochs"][UNCOUNTED:]]


WATCHED: dict[str, list[tuple[type, str]]] = {
    "turns": [(Cohort, "_resume")], "launches": [(Stack, "train"), (Stack, "evaluate")],
    "waits": [(Cohort, "_found")], "in_and_out": [(Stack, "load_all"), (Stack, "unload_all"), (Stack, "kept")],
}  # fmt: skip


class Clock:
    """Where the time of a cohort goes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("all", *WATCHED), 0.0)
        self.n_turns, self.noted = 0, list[dict[str, float]]()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within this block, methods of cohorts and stacks are timed."""
        with contextlib.ExitStack() as patches:
            for part, methods in WATCHED.items():
                for owner, name in methods:
                    timed = self._timed(part, getattr(owner, name))
                    patches.enter_context(unittest.mock.patch.object(owner, name, timed))
            yield

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = method(*args, **options)
            self.seconds[part] += time.perf_counter() - began
            self.n_turns += part == "turns"
            return found

        return timed

    def note(self, rows: list[dict[str, Any]]) -> None:
        """At the end of the first member's epoch."""
        self.noted.append({**self.seconds, "all": time.perf_counter(), "n_turns": self.n_turns})

    def split(self) -> dict[str, float]:
        """Means of an epoch, without the first ones."""
        first, last = self.noted[UNCOUNTED - 1], self.noted[-1]
        mean = {name: (last[name] - first[name]) / (len(self.noted) - UNCOUNTED) for name in first}
        rest = mean["all"] - sum(mean[part] for part in WATCHED)
        return {name: round(value, 4) for name, value in {**mean, "rest": rest}.items()}


def stack(spec: TrialSpec, k: int, options: argparse.Namespace, note: Callable[[str], None]) -> list[float]:
    """A stack of k networks, without trials."""
    execution = execution_of(options, k)
    with prepared(execution, spec.precision):
        return _stack(spec, k, options, note)


def _stack(spec: TrialSpec, k: int, options: argparse.Namespace, note: Callable[[str], None]) -> list[float]:
    data = load_dataset(spec.dataset, options.data_root, spec.split_seed, spec.image_size)
    on_gpu = options.device == "cuda"
    probe = build(spec.model, data.shape, len(data.classes))
    is_image = on_gpu and any(isinstance(module, nn.Conv2d) for module in probe.modules())
    dls = resident_loaders(
        data, batch_size=spec.batch_size, order_seed=0, device=options.device, augment=spec.augment,
        channels_last=is_image,
    )  # fmt: skip
    loader: Any = dls.train
    members = {slot: _member(spec, data, loader) for slot in range(k)}
    made = Stack(
        members[0].model, members[0].optimizer, loader, nn.CrossEntropyLoss(), spec.precision, k,
        stack_compiler(execution_of(options, k)),
    )  # fmt: skip
    runs = {slot: run_of(spec, loader, slot) for slot in members}
    if options.profile:
        _profile(made, runs, on_gpu)
    n = len(runs[0].sizes)
    every = spec.validate_every or n
    marks = {**dict.fromkeys(range(every, n, every), True), n: False}
    runs = {slot: replace(run, marks=marks) for slot, run in runs.items()}
    seconds = []
    for _ in range(options.epochs):
        settle(on_gpu)
        began = time.perf_counter()
        made.load_all(members)
        made.train(runs, dls.valid)
        made.at_marks(runs)
        made.unload_all(members)
        made.kept({slot: member.model for slot, member in members.items()})
        settle(on_gpu)
        seconds.append((time.perf_counter() - began) / k)
    if made.refusal is not None and on_gpu:
        note(f"{spec.model}: {made.refusal}")
    return seconds[UNCOUNTED:]


def _member(spec: TrialSpec, data: Any, loader: Any) -> Member:
    model = build(spec.model, data.shape, len(data.classes)).to(loader.device)
    if loader.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(spec, loader.device)(list(model.parameters()), lr=spec.lr).opt
    factors = {name: (torch.rand_like(w) < 0.5).float() for name, w in model.named_parameters() if w.ndim > 1}
    return Member(model=model, optimizer=optimizer, factors=factors)


def run_of(spec: TrialSpec, loader: Any, seed: int) -> Run:
    """An epoch of a member."""
    loader.epoch = seed
    full, rest = divmod(loader.n, loader.bs)
    sizes = (loader.bs,) * full + ((rest,) if rest else ())
    return Run(
        order=loader.order(), sizes=sizes, draws=loader.draws(), rates=(spec.lr,) * len(sizes),
        seeds=tuple(range(len(sizes))),
    )  # fmt: skip


def _profile(made: Stack, runs: dict[int, Run], on_gpu: bool) -> None:
    twenty = {slot: run.split(min(20, len(run.sizes)))[0] for slot, run in runs.items()}
    made.train(twenty)
    settle(on_gpu)
    with torch.profiler.profile() as profile:
        made.train(twenty)
        settle(on_gpu)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=70), file=sys.stderr)


def settle(on_gpu: bool) -> None:
    """Wait for the device."""
    if on_gpu:
        torch.cuda.synchronize()


SIDES = {"stack": stack, "bare": bare, "cohort": cohort, "alone": alone}

if __name__ == "__main__":
    sys.exit(main())
