"""What a level costs the members of a cohort beside its epochs: their own Python as they begin and as they end.

    python benchmarks/between_levels.py [--seeds 5] [--levels 10] [--epochs 100] [--profile FILE]

Tickets of LeNet-300-100 with the controls random_mask and reinit at every level, as in `mnist_lenet`, on a CPU, with
one batch of 60 images an epoch, so that training costs little and histories are as long as theirs. Each level is a
cohort, as a worker of a sweep trains it. Reports to Ray are left out. Prints, for each level, the milliseconds of CPU
time a member before its first step (*begins*), after its last one (*ends*; what the stack computes is left out) and in
an *epoch*, and the rows of its history. `--profile` writes what cProfile finds in members of the last three levels.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import hashlib
import json
import pstats
import statistics
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.pruning.levels import rungs
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.cohort import Cohort, Seat, run_cohort
from lth_trainable.training.requests import Training
from lth_trainable.tune.attempt import execution_of
from lth_trainable.tune.cohort import Member
from lth_trainable.tune.config import members_of, task_of
from sweeps.planning.plan import Facts, PlannedTrial, make_plan
from sweeps.running.cohorts import Start
from sweeps.running.config import Config
from sweeps.runs.ledger import Ledger

DATA = "benchmarks.random_images:few_like_mnist"
BRANCHES = ("none", "random_mask", "reinit")
PROFILED = 3  # last levels


@dataclass
class Turns:
    """Seconds of the turns of each member: of those that begin, those of epochs, and those after the last step."""

    begins: dict[int, float] = field(default_factory=dict)
    epochs: dict[int, list[float]] = field(default_factory=dict)
    since: dict[int, float] = field(default_factory=dict)  # the last batch of all steps that were asked for

    @contextlib.contextmanager
    def watching(self, profiles: list[cProfile.Profile] | None) -> Iterator[None]:
        """Within this block the turns of cohorts' members are timed. profiles: gets one for each member."""
        resume, member = Cohort._resume, Cohort._member

        @functools.wraps(resume)
        def timed(cohort: Cohort[Any], seat: Seat) -> None:
            served, began = seat.request, time.process_time()  # nothing else runs meanwhile
            resume(cohort, seat)
            self._note(seat.slot, served, time.process_time() - began)

        @functools.wraps(member)
        def profiled(cohort: Cohort[Any], seat: Seat) -> None:
            assert profiles is not None
            profiles.append(cProfile.Profile())
            with profiles[-1]:
                member(cohort, seat)

        with contextlib.ExitStack() as patches:
            patches.enter_context(unittest.mock.patch.object(Cohort, "_resume", timed))
            if profiles is not None:
                patches.enter_context(unittest.mock.patch.object(Cohort, "_member", profiled))
            yield

    def _note(self, slot: int, served: Any, seconds: float) -> None:
        if isinstance(served, Training):
            self.epochs.setdefault(slot, []).append(seconds)
            self.since[slot] = seconds
        elif slot in self.epochs:
            self.since[slot] += seconds
        else:
            self.begins[slot] = self.begins.get(slot, 0.0) + seconds

    def told(self) -> dict[str, float]:
        """Milliseconds of CPU time, medians of the members."""
        parts = {
            "begins": list(self.begins.values()), "ends": list(self.since.values()),
            "epoch": [seconds for of in self.epochs.values() for seconds in of[:-1]],
        }  # fmt: skip
        return {name: round(1000 * statistics.median(of), 2) for name, of in parts.items()}


def main() -> int:
    """Train the levels one after another; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100, help="of a level")
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    began, profiles = time.perf_counter(), list[cProfile.Profile]()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for level, task in enumerate(tasks(store, options), 1):
            is_profiled = options.profile is not None and level > options.levels - PROFILED
            turns = Turns()
            members = [Member(each, lambda: False) for each in members_of(task)]
            with turns.watching(profiles if is_profiled else None):
                outcomes = run_cohort([m.train for m in members], execution_of(task), TrialSpec(**task["spec"]))
            failed = [m.end for m in members if m.end is None or m.end.report["status"] != "done"]
            if failed or any(outcomes):
                raise AssertionError(f"{failed} {outcomes}")
            print(json.dumps({"level": level, "rows": len(members[0].progress.rows), **turns.told()}), flush=True)
        print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "digest": digest_of(store)}))
    if profiles:
        pstats.Stats(*profiles).dump_stats(options.profile)
    return 0


def tasks(store: Store, options: argparse.Namespace) -> Iterator[Any]:
    """The task of each level's cohort."""
    more: dict[str, Any] = {
        "dataset": DATA, "epochs": options.epochs, "rewind_epoch": 0, "batch_size": 60, "prune_rate_pct": 20.0,
    }  # fmt: skip
    data = load_dataset(DATA)
    levels = [
        [
            TrialSpec(**more, target_sparsity_pct=float(100 * sparsity), seed=seed, control=control)
            for seed in range(options.seeds) for control in BRANCHES
        ]
        for sparsity in rungs(20.0, options.levels)
    ]  # fmt: skip
    specs = [spec for of in levels for spec in of]
    plan = make_plan(specs, {(DATA, 0): Facts(digest=data.digest, n_train=len(data.train))})
    named = {trial.spec: trial for trial in plan.trials}
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    config = Config(ledger=ledger, execution={"replicas": len(levels[0]), "threads": 1})
    for number, of in enumerate(levels, 1):
        first, *others = (named[spec] for spec in of)
        yield task_of(config.of(plan, first, None, Start(others=tuple[PlannedTrial, ...](others), number=number)))


def digest_of(store: Store) -> str:
    """SHA-256 of what all records say of weights, masks and metrics: equal if nothing has changed but the speed."""
    found = {}
    for name in store.folders("run/trials"):
        found[name] = json.loads(store.read(f"run/trials/{name}/record.json"))["sha256"]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
