"""The default search beside the default grid on digits: how good a front for half the trained epochs?

    python benchmarks/search.py [--studies 5] [--share 0.5]

The grid is `sweeps.lth_grid digits`, as it is. Each study is `sweeps.lth_search` with another seed of its sampler and a
storage of its own, stopped by --max-epochs at this share of what the grid trained. Its front was chosen on validation
accuracies of three seeds, so it is trained once more on the grid's eight seeds, and both are judged by mean test
accuracy there. The hypervolume is the area of sparsity (from 0) and accuracy (from 5 pp below dense) that a front
dominates, in the grid's own range of sparsities: what a search finds beyond it counts in `hypervolume_unbounded` alone.
Prints one JSON object; exit code 1 where the mean is below 98 % of the grid's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from analysis.tables.schema import SPEC_FIELDS
from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import finished_trials
from sweeps.experiments.recipes import digits
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Facts, make_plan
from sweeps.running.launch import launch
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.runs.ledger import Ledger

TARGET = 0.98
BELOW_DENSE = 0.05  # accuracy of the reference point, below the dense mean
SLACK = 40  # epochs that a search may train on after its budget is spent: it stops at stored states
MANY = 10_000  # suggestions: the budget ends a study
Point = tuple[float, float]  # sparsity (per cent), mean test accuracy


def main() -> int:
    """Grid, studies, comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid = command("sweeps.lth_grid", "digits", "--storage", f"{folder}/grid")
        budget = int(options.share * grid["epochs_trained"]) - SLACK
        studies = [search(f"{folder}/search-{seed}", seed, budget) for seed in range(options.studies)]
        confirmed = confirm(f"{folder}/confirm", [spec for study in studies for spec in study["front"]])
        tickets, dense = means(f"{folder}/grid", "digits")
    reference, reach = dense - BELOW_DENSE, max(sparsity for sparsity, _ in tickets.values())
    volume = hypervolume(tickets.values(), reference, reach)
    rows = []
    for seed, study in enumerate(studies):
        front = [confirmed[spec.name] for spec in study["front"]]
        rows.append({
            "sampler_seed": seed, "epochs_trained": study["epochs_trained"], "suggestions": study["done"],
            "front": sorted(front), "hypervolume": hypervolume(front, reference, reach),
            "hypervolume_unbounded": hypervolume(front, reference, 100.0), "wall_s": study["wall_s"],
        })  # fmt: skip
    mean = fmean(row["hypervolume"] for row in rows)
    print(json.dumps({
        "cores": os.cpu_count(), "dense_test_accuracy": dense, "reference_accuracy": reference,
        "grid": {"epochs_trained": grid["epochs_trained"], "front": sorted(tickets.values()), "hypervolume": volume},
        "studies": rows, "mean_hypervolume": mean, "mean_share_of_grid": mean / volume,
        "share_of_epochs": fmean(row["epochs_trained"] for row in rows) / grid["epochs_trained"],
        "meets_target": mean >= TARGET * volume,
    }, indent=1))  # fmt: skip
    return 0 if mean >= TARGET * volume else 1


def command(module: str, *arguments: str, codes: Sequence[int] = (0,)) -> dict[str, Any]:
    """What the command says of itself at its end."""
    ended = subprocess.run([sys.executable, "-m", module, *arguments, "--json"], capture_output=True, text=True)
    if ended.returncode not in codes:
        raise SystemExit(f"{module} ended with {ended.returncode}:\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def search(storage: str, seed: int, budget: int) -> dict[str, Any]:
    """One study, with the tickets of its front as specs of seed 0."""
    words = ["--storage", storage, "--sampler-seed", str(seed), "--suggestions", str(MANY), "--max-epochs", str(budget)]
    summary = command("sweeps.lth_search", *words, codes=(0, 3))
    rows = pq.read_table(f"{storage}/digits_search/analysis/suggestions.parquet").to_pylist()
    fields = [name for name in SPEC_FIELDS if name not in ("seed", "control")]
    specs = [TrialSpec(**{name: row[name] for name in fields}, seed=0) for row in rows if row["on_front"]]
    return {**summary, "front": list(dict.fromkeys(specs))}


def confirm(storage: str, specs: Iterable[TrialSpec]) -> dict[str, Point]:
    """Train these tickets on the grid's seeds; sparsity and mean test accuracy by name of the ticket of seed 0."""
    data = load_dataset("digits")
    facts = {("digits", 0): Facts(digest=data.digest, n_train=len(data.train))}
    wanted = dict.fromkeys(specs)
    plan = make_plan([replace(spec, seed=seed) for seed in digits().seeds for spec in wanted], facts)
    store, run, resources = Store(Path(storage)), "confirm", Resources()
    ledger = Ledger(store=store, run=run, plan=plan, facts=facts)
    dispatcher = Dispatcher(plan, (), (), resources.slots())
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        outcome = launch(ledger, dispatcher, resources, {}, Spent(), Budget())
    assert not outcome.failures, outcome.failures
    tickets, _ = means(storage, run)
    return {spec.name: tickets[replace(spec, seed=0)] for spec in wanted}


def means(storage: str, run: str) -> tuple[dict[TrialSpec, Point], float]:
    """Sparsity and mean test accuracy of each group of tickets, by its ticket of seed 0; and of the dense trials."""
    found: dict[TrialSpec, list[Point]] = defaultdict(list)
    for _, record in finished_trials(Store(Path(storage)), run):
        spec, result = TrialSpec(**record["spec"]), record["result"]
        found[replace(spec, seed=0)].append((result["sparsity_pct"], result["test_accuracy"]))
    points = {spec: (fmean(s for s, _ in of), fmean(a for _, a in of)) for spec, of in found.items()}
    dense = [accuracy for spec, (_, accuracy) in points.items() if spec.is_dense]
    return {spec: point for spec, point in points.items() if not spec.is_dense}, dense[0] if dense else float("nan")


def hypervolume(points: Iterable[Point], accuracy: float, reach: float) -> float:
    """Area of (sparsity, accuracy) that the points dominate above `accuracy`, from sparsity 0 to `reach`."""
    area, best = 0.0, accuracy
    for sparsity, value in sorted(points, reverse=True):  # the sparsest first: each adds a slab up to its sparsity
        if value > best:
            area += min(sparsity, reach) * (value - best)
            best = value
    return area


if __name__ == "__main__":
    sys.exit(main())
