"""What sharing saves: the four grids of the literature, planned and trained, beside the same sweep without sharing.

    python benchmarks/sharing.py [--seeds 5] [--unshared imp_targets omp]

The grids are those of 160 epochs a level, rewinding to epochs 0, 1, 5 and 10, pruning 20 % a level, at a tenth of the
length: 16 epochs of 20 steps, rewinding to iterations 0, 2, 10 and 20, so that every ratio is kept. They run on
digits (LeNet-300-100) through the plan, searcher and Ray Tune of `sweeps.lth_grid`. Steps are counted
in the rows of the records and compared with closed formulas; a mismatch ends the benchmark with exit code 1. The grids
named after --unshared are trained once more with every trial alone. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import finished_trials
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Facts, make_plan
from sweeps.running.launch import launch
from sweeps.running.progress import Board
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.runs.ledger import Ledger

EPOCHS, STEPS_PER_EPOCH, BATCH = 16, 20, 60
T = EPOCHS * STEPS_PER_EPOCH  # steps a level; 160 epochs, at a tenth
REWINDS = (0, 2, 10, 20)  # iterations; epochs 0, 1, 5 and 10, at a tenth
LEVELS = (3, 6, 10, 15, 20)


def main() -> int:
    """Plan, train, count, compare; returns the exit code."""
    options = parse()
    data = load_dataset("digits")
    facts = {("digits", 0): Facts(digest=data.digest, n_train=len(data.train))}
    rows = [measure(name, options.seeds, facts, name in options.unshared) for name in options.grids]
    ten_thousand = imp(range(1, 21), seeds=125)
    started = time.perf_counter()
    make_plan(ten_thousand, facts)
    plan_seconds = round(time.perf_counter() - started, 2)
    right = all(
        row["steps_requested"] == row["formula_alone"] and row["steps_trained"] == row["formula_tree"] for row in rows
    )
    print(json.dumps({
        "cores": os.cpu_count(), "load_before": options.load, "grids": rows, "formulas_hold": right,
        "plan_of_10000_trials_s": plan_seconds,
    }, indent=1))  # fmt: skip
    return 0 if right else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--unshared", nargs="*", choices=GRIDS, default=["imp_targets", "omp"])
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    return options


def imp(levels: Sequence[int], seeds: int, **fields: Any) -> list[TrialSpec]:
    """Tickets of iterative magnitude pruning, 20 % a level, at these numbers of levels."""
    rewinds = ({"rewind_epoch": f"{k}it"} for k in REWINDS) if "retrain" not in fields else ({},)
    return [
        TrialSpec(
            schedule="imp", prune_rate_pct=20.0, target_sparsity_pct=round(100 * (1 - 0.8**n), 4), seed=seed,
            epochs=EPOCHS, batch_size=BATCH, **{**rewind, **fields},
        )
        for rewind in rewinds for seed in range(seeds) for n in levels
    ]  # fmt: skip


def omp(seeds: int) -> list[TrialSpec]:
    """Tickets pruned at once to the sparsities of the same levels."""
    return [
        TrialSpec(
            schedule="omp", target_sparsity_pct=round(100 * (1 - 0.8**n), 4), seed=seed, epochs=EPOCHS,
            batch_size=BATCH, rewind_epoch=f"{k}it",
        )
        for seed in range(seeds) for k in REWINDS for n in LEVELS
    ]  # fmt: skip


def trials_of(grid: str, seeds: int) -> list[TrialSpec]:
    """The tickets of a grid, without dense baselines, as the literature counts them."""
    return {
        "imp_targets": lambda: imp(LEVELS, seeds),
        "imp_targets_omp_lr_rewinding": lambda: (
            imp(LEVELS, seeds) + omp(seeds) + imp(LEVELS, seeds, retrain="lr_rewinding")
        ),
        "imp_every_level": lambda: imp(range(1, 21), seeds),
        "omp": lambda: omp(seeds),
    }[grid]()


GRIDS = ("imp_targets", "imp_targets_omp_lr_rewinding", "imp_every_level", "omp")


def formulas(grid: str, seeds: int) -> tuple[int, int]:
    """Steps of all trials alone, and of the tree, in closed form: T + L (T - k) a trial; T + sum of L_max (T - k)."""
    levels = range(1, 21) if grid == "imp_every_level" else LEVELS
    alone = tree = 0
    if grid != "omp":
        alone += sum(T + n * (T - k) for k in REWINDS for n in levels)
        tree += sum(max(levels) * (T - k) for k in REWINDS)
    if grid in ("omp", "imp_targets_omp_lr_rewinding"):
        alone += sum(2 * T - k for k in REWINDS for _ in LEVELS)
        tree += sum(T - k for k in REWINDS for _ in LEVELS)
    if grid == "imp_targets_omp_lr_rewinding":
        alone += sum(T + n * T for n in LEVELS)
        tree += max(LEVELS) * T
    return seeds * alone, seeds * (T + tree)


def measure(grid: str, seeds: int, facts: dict[tuple[str, int], Facts], also_alone: bool) -> dict[str, Any]:
    """One grid through Ray, shared; and alone where that is asked for."""
    specs = trials_of(grid, seeds)
    alone, tree = formulas(grid, seeds)
    shared = train(specs, facts, "needed")
    row = {
        "grid": grid, "trials": len(specs), "formula_alone": alone, "steps_requested": shared["requested"],
        "formula_tree": tree, "steps_trained": shared["trained"], "gain": round(alone / shared["trained"], 2),
        "ray_trials": shared["ray_trials"], "plan_s": shared["plan_s"], "wall_shared_s": shared["wall_s"],
    }  # fmt: skip
    if also_alone:
        unshared = train(specs, facts, "none")
        assert unshared["hashes"] == shared["hashes"], "sharing changed a result"
        row |= {
            "wall_unshared_s": unshared["wall_s"], "steps_trained_unshared": unshared["trained"],
            "wall_gain": round(unshared["wall_s"] / shared["wall_s"], 2), "same_bytes": True,
        }  # fmt: skip
    return row


def train(specs: list[TrialSpec], facts: dict[tuple[str, int], Facts], policy: str) -> dict[str, Any]:
    """The sweep in a new storage; wall seconds from planning to the last record."""
    resources = Resources()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        plan = make_plan(specs, facts, policy)
        planned = time.perf_counter() - started
        ledger = Ledger(store=Store(folder), run="sharing", plan=plan, facts=facts)
        spent = Spent()
        board = Board(planned=len(specs), epochs_planned=plan.epochs_distinct, spent=spent)
        dispatcher = Dispatcher(plan, (), (), resources.slots())
        with open(os.devnull, "w") as nowhere:
            kept, sys.stdout = sys.stdout, nowhere
            try:
                outcome = launch(ledger, dispatcher, resources, {}, spent, Budget(), board=board)
            finally:
                sys.stdout = kept
        wall = time.perf_counter() - started
        assert dispatcher.over and not outcome.failures, outcome
        records = [record for _, record in finished_trials(ledger.store, ledger.run)]
    return {
        "requested": sum(_steps(record, record["epochs"]) for record in records),
        "trained": sum(_steps(r, [row for row in r["epochs"] if row["trained_by"] == r["trial"]]) for r in records),
        "ray_trials": len(specs) - spent.shared, "plan_s": round(planned, 3), "wall_s": round(wall, 1),
        "hashes": {record["trial"]: record["sha256"] for record in records},
    }  # fmt: skip


def _steps(record: dict[str, Any], rows: list[dict[str, Any]]) -> int:
    """Optimiser steps of these rows: a level that rewinds to an iteration begins within an epoch."""
    k = record["spec"].get("rewind_step") or 0
    cut = k % STEPS_PER_EPOCH, k // STEPS_PER_EPOCH
    partial = sum(row["level"] > 0 and row["epoch"] == cut[1] for row in rows)
    return len(rows) * STEPS_PER_EPOCH - partial * cut[0]


if __name__ == "__main__":
    sys.exit(main())
