"""Synthetic runs for the tests of `analysis`: records as `run.py` writes them, sealed by the store; no training."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis.gather import tabulate
from analysis.labels import group_name, ladder_name
from analysis.tables.clocks import clock_columns
from analysis.tables.parquet import Frames, as_rows
from analysis.tables.records import Found
from analysis.tables.run_plan import Rule, RunPlan
from analysis.tables.schema import table
from lth_trainable.spec.naming import trial_name
from lth_trainable.spec.trial_spec import TrialSpec, usual_values
from lth_trainable.store.store import RECORD, Store, to_json

DATA = "d" * 64
N_TEST = 360
LONG_AGO = 1_700_000_000
SHAPES = {"1.weight": [300, 64], "3.weight": [100, 300], "5.weight": [10, 100]}
WEIGHTS = {name: rows * columns for name, (rows, columns) in SHAPES.items()}

Accuracy = Callable[[TrialSpec], float | None]


def ladder(*targets: float, seeds: int = 5, **fields: Any) -> list[TrialSpec]:
    """Tickets of each target and seed."""
    return [TrialSpec(target_sparsity_pct=t, seed=s, **fields) for t in targets for s in range(seeds)]


def dense(seeds: int = 5, **fields: Any) -> list[TrialSpec]:
    return [TrialSpec(control="dense", seed=s, **fields) for s in range(seeds)]


def digits_like(seeds: int = 5) -> list[TrialSpec]:
    """The default recipe: three rungs, rewinding to 0 and 1, dense."""
    return [*dense(seeds), *(t for k in (0, 1) for t in ladder(64, 87.04, 92.22, seeds=seeds, rewind_epoch=k))]


def around(mean: float, spread_pp: float = 0.4, n_test: int = N_TEST) -> Accuracy:
    """Test accuracy with a fixed pseudo-random deviation per trial, on the grid of a test part of `n_test`."""

    def accuracy(spec: TrialSpec) -> float:
        noise = np.random.default_rng([spec.seed, *spec.name.encode()]).normal(0, spread_pp / 100)
        return round((mean + noise) * n_test) / n_test

    return accuracy


def drops(by_sparsity: Mapping[float | None, float], spread_pp: float = 0.4, seed_spread_pp: float = 0.4) -> Accuracy:
    """Accuracy by target sparsity (None: dense), with a deviation per seed that pairs share and one per trial."""

    def accuracy(spec: TrialSpec) -> float:
        shared = np.random.default_rng([7, spec.seed]).normal(0, seed_spread_pp / 100)
        return around(by_sparsity[spec.target_sparsity_pct] + shared, spread_pp)(spec)

    return accuracy


def record(spec: TrialSpec, accuracy: float | None, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of a finished trial; a None accuracy is that of a diverged one."""
    levels = [0.0, *(float(s) for s in spec.level_sparsities)]
    kept = [{name: round(n * (1 - s)) for name, n in WEIGHTS.items()} for s in levels]
    n_weights, n_kept = sum(WEIGHTS.values()), sum(kept[-1].values())
    diverged = accuracy is None
    content = {
        "format": 1, "trial": spec.name, "key": spec.key(DATA), "status": "diverged" if diverged else "done",
        "reason": "the training loss became NaN in epoch 0 of level 0" if diverged else None,
        "spec": spec.canonical(),
        "data": {
            "digest": DATA, "shape": [1, 8, 8], "n_classes": 10, "n_train": 1150, "n_valid": 287, "n_test": N_TEST,
            "majority_class_accuracy": 0.1,
        },
        "states": {"initial": "a" * 64, "final": "c" * 64} | ({} if spec.is_dense else {"rewind": "b" * 64}),
        "epochs": [_epoch(spec, level, sparsity, accuracy) for level, sparsity in enumerate(levels)],
        "layers": [
            {"level": level, "layer": name, "type": "Linear", "n_weights": WEIGHTS[name], "n_kept": n}
            for level, by_layer in enumerate(kept) for name, n in by_layer.items()
        ],
        "shapes": SHAPES,
        "result": {
            "sparsity_pct": 100 * (1 - n_kept / n_weights), "n_weights": n_weights, "n_kept": n_kept,
            "collapsed_layers": [], "valid_accuracy": accuracy, "valid_loss": None if diverged else 0.1,
            "best_valid_accuracy": accuracy, "test_accuracy": accuracy, "test_loss": None if diverged else 0.12,
            "early_stop_epoch": None if diverged else 15, "early_stop_iteration": None if diverged else 320,
            "early_stop_censored": None if diverged else False, "early_stop_valid_loss": None if diverged else 0.09,
            "early_stop_valid_accuracy": accuracy, "early_stop_test_accuracy": accuracy, "balanced_accuracy": accuracy,
            "chance_accuracy": 0.1, "epochs_total": spec.epochs_alone(), "flops_dense": 3.0 * n_weights,
            "flops_sparse": 3.0 * n_kept, "inference_flops_dense": 1.0 * n_weights,
            "inference_flops_sparse": 1.0 * n_kept,
        },
        "train_seconds": 1.5, "epochs_trained": spec.epochs_alone(),
        "fingerprint": {"torch": "2.14.1", "device": "cpu: test", "threads": 1, "deterministic": True, "code": "0.1.0"},
        "versions": {"python": "3.11.9", "torch": "2.14.1", "fastai": "2.8.4", "ray": "2.60.0"},
        "sha256": {"weights": "1" * 64, "masks": "2" * 64, "metrics": "3" * 64},
    }  # fmt: skip
    return content | dict(changes or {})


def plan(specs: Sequence[TrialSpec], **changes: Any) -> dict[str, Any]:
    """The content of plan.json for these trials."""
    content = {
        "format": 1, "recipe": "synthetic", "commands": [["python", "-m", "sweeps.lth_grid", "digits", "--seeds", "5"]],
        "endpoint": "test_accuracy", "margin_pp": 1.0, "alpha": 0.05,
        "versions": {"lottery-sweep": "0.1.0", "torch": "2.14.1"},
        "trials": [{"name": s.name, "key": s.key(DATA), "spec": s.canonical()} for s in specs],
    }  # fmt: skip
    return content | changes


def seal(storage: Path, spec: TrialSpec, content: dict[str, Any], run: str = "run") -> Path:
    """One finished trial in the store; returns its folder."""
    Store(storage).seal(f"{run}/trials/{spec.name}", {RECORD: to_json(content)}, {"key": content["key"], "states": {}})
    return storage / run / "trials" / spec.name


def make_run(
    storage: Path, specs: Sequence[TrialSpec], accuracy: Accuracy, *, skip: Collection[str] = (), **plan_changes: Any
) -> Path:
    """A run with a plan of `specs` and a sealed record for each but those named in `skip`; returns its folder."""
    Store(storage).write("run/plan.json", to_json(plan(specs, **plan_changes)))
    for spec in specs:
        if spec.name not in skip:
            seal(storage, spec, record(spec, accuracy(spec)))
    return storage / "run"


def settle(run: Path, seconds: int = LONG_AGO) -> None:
    """Let no file of the trials be so young that it might change unseen; what is old stays as it is."""
    for path in (run / "trials").rglob("*"):
        if path.is_file() and path.stat().st_mtime > LONG_AGO + 1000:
            os.utime(path, (seconds, seconds))


def paired(dense_pct: float, differences_pp: Mapping[float | None, Sequence[float]]) -> Accuracy:
    """Accuracy with exactly these differences to the dense network, in pp by seed, for each target sparsity."""

    def accuracy(spec: TrialSpec) -> float:
        base = dense_pct + 0.1 * spec.seed
        return (base if spec.is_dense else base + differences_pp[spec.target_sparsity_pct][spec.seed]) / 100

    return accuracy


def trial_rows(specs: Sequence[TrialSpec], accuracy: Accuracy, **changes: Any) -> list[dict[str, Any]]:
    """Rows of trials.parquet for these trials, all finished; without files."""
    found = {spec.name: Found(record=record(spec, accuracy(spec)), status="done") for spec in specs}
    no_plan = RunPlan(recipe="", claim="", commands=(), versions={}, rule=Rule(), trials=())
    rows = tabulate("run", no_plan, found)["trials"]
    return [row | changes for row in rows.to_pylist()]


def with_fields(row: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """The row of another trial, which has these spec fields in place of the row's own."""
    other = {**row, **fields}
    name = trial_name(other, usual_values(other))
    return other | {"trial": name, "group": group_name(name), "ladder": ladder_name(name)}


def control_rows(rows: Sequence[Mapping[str, Any]], control: str, ahead_pp: Sequence[float]) -> list[dict[str, Any]]:
    """A control of every ticket among `rows`, which is ahead of it by this much, in pp by seed."""
    found = []
    for row in rows:
        if row["control"] == "none":
            accuracy = row["test_accuracy"] - ahead_pp[row["seed"]] / 100
            changes = {"test_accuracy": accuracy, "early_stop_test_accuracy": accuracy}
            found.append(with_fields(row, control=control) | changes)
    return found


def without_early_stop(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows as of a version that did not record it."""
    names = ("early_stop_iteration", "early_stop_from_init", "early_stop_censored", "early_stop_test_accuracy")
    return [{**row, **dict.fromkeys(names)} for row in rows]


def with_early_stop(
    rows: Sequence[Mapping[str, Any]], ticket: Sequence[int], dense: Sequence[int], last: int = 400
) -> list[dict[str, Any]]:
    """The rows with early stops, in iterations by seed; one at `last` is censored. Accuracy there is the last one."""
    found = []
    for row in rows:
        iteration = (dense if row["control"] == "dense" else ticket)[row["seed"]]
        at_stop = {"early_stop_iteration": iteration, "early_stop_censored": iteration >= last}
        stopped = {**row, **at_stop, "early_stop_test_accuracy": row["test_accuracy"]}
        found.append(stopped | clock_columns(stopped))
    return found


def _epoch(spec: TrialSpec, level: int, sparsity: float, accuracy: float | None) -> dict[str, Any]:
    loss = None if accuracy is None else 1 - accuracy
    return {
        "level": level, "epoch": spec.epochs - 1, "step": 20 * spec.epochs, "iterations": 20, "lr": spec.lr,
        "train_loss": loss, "valid_loss": loss, "valid_accuracy": accuracy, "sparsity_pct": 100 * sparsity,
        "seconds": 0.02, "trained_by": spec.name,
    }  # fmt: skip


def with_tables(frames: Frames, **changed: pa.Table | pd.DataFrame) -> Frames:
    """The tables of a run with others in their place, given as Arrow or as pandas."""
    tables = {
        name: found if isinstance(found, pa.Table) else table(name, as_rows(found)) for name, found in changed.items()
    }
    return Frames(tables={**frames.tables, **tables})


DIGITS = drops({None: 0.965, 64: 0.964, 87.04: 0.966, 92.22: 0.948})
ITERATIVE = {"schedule": "iterative", "start_pct": 0.25}


def tutorial(tmp_path: Path) -> Path:
    """A run of two ladders within one fit, with two dense baselines."""
    specs = [*dense(), *dense(epochs=5), *(t for k in (0, 1) for t in ladder(50, 95, rewind_epoch=k, **ITERATIVE))]
    return make_run(tmp_path, specs, drops({None: 0.965, 50: 0.93, 95: 0.31}))
