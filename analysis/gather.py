"""A run's files -> its tables: trials, epochs, layers, verdicts, and the report made from them.

The plan says which trials there should be, the store which there are. A trial that is not finished, or whose files are
damaged, is a row with its status and nulls; nothing is dropped and nothing becomes 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from analysis import schema
from analysis.dense_accuracy import epochs_to_dense_accuracy
from analysis.frames import Frames, to_frames, write_table
from analysis.hypotheses import verdicts
from analysis.pairs import group_name, ladder_name
from analysis.plan import PlannedTrial, RunPlan, check_fields, find_run, read_plan
from lth_trainable.errors import UserError
from lth_trainable.store import FAILURE, RECORD, Damaged, Store

RECORD_FORMAT = 1
_RESULTS = (
    "sparsity_pct", "n_weights", "n_kept", "valid_accuracy", "best_valid_accuracy", "test_accuracy", "valid_loss",
    "test_loss", "balanced_accuracy", "chance_accuracy", "early_stop_epoch", "early_stop_iteration",
    "early_stop_censored", "early_stop_valid_loss", "early_stop_valid_accuracy", "early_stop_test_accuracy",
    "epochs_total", "flops_dense", "flops_sparse", "inference_flops_dense", "inference_flops_sparse",
)  # fmt: skip
_DATA = ("n_train", "n_valid", "n_test", "majority_class_accuracy")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the store has of one trial: its record, or the status and the reason why there is none."""

    record: Mapping[str, Any] = field(default_factory=dict)
    status: str = "missing"
    reason: str | None = None


def gather(path: str | os.PathLike[str]) -> Frames:
    """Everything anew from the files of the run at `path`: Parquet, verdicts, `RUN/report.html`; returns the tables.

    Raises `UserError` where there is no run.
    """
    from analysis.report import report_html  # matplotlib and jinja2 take a second to import

    store, run = find_run(path)
    plan = read_plan(store, run)
    tables = tabulate(plan, find_trials(store, run, plan))
    for name, table in tables.items():
        write_table(store, run, name, table)
    frames = to_frames(tables)
    store.write(f"{run}/report.html", report_html(frames, plan, run).encode())
    return frames


def find_trials(store: Store, run: str, plan: RunPlan) -> dict[str, Found]:
    """What the store has of each trial, by name: the planned ones in the plan's order, then any others that it has."""
    planned = {trial.name: trial for trial in plan.trials}
    stored = store.folders(f"{run}/trials")
    found = {name: _find(store, run, name, planned.get(name)) for name in dict.fromkeys([*planned, *stored])}
    return {name: trial for name, trial in found.items() if name in planned or trial.status != "missing"}


def tabulate(plan: RunPlan, found: Mapping[str, Found]) -> dict[str, pa.Table]:
    """The four tables, by name. Pure."""
    planned = {trial.name: trial for trial in plan.trials}
    rows = [_trial_row(name, trial, planned.get(name)) for name, trial in found.items()]
    epochs = schema.table("epochs", _entries(found, "epochs", schema.EPOCHS.names))
    sooner = epochs_to_dense_accuracy(rows, epochs)
    trials = schema.table("trials", [row | more for row, more in zip(rows, sooner, strict=True)])
    return {
        "trials": trials,
        "epochs": epochs,
        "layers": schema.table("layers", map(_with_sparsity, _entries(found, "layers", schema.LAYERS.names))),
        "verdicts": schema.table("verdicts", verdicts(trials.to_pylist(), plan.rule)),
    }


def _find(store: Store, run: str, name: str, planned: PlannedTrial | None) -> Found:
    path = store.trial(run, name)
    try:
        folder = store.find(path)
        if folder is None:
            return _unfinished(store, path)
        record = json.loads(store.content(folder, RECORD))
        _check_record(path, record, planned)
    except Damaged as damage:
        return Found(status="damaged", reason=damage.reason)
    except UserError as error:  # of a newer version: not comparable, but no reason to lose the other trials
        return Found(status="damaged", reason=str(error))
    except (ValueError, KeyError, TypeError) as error:
        return Found(status="damaged", reason=f"{RECORD} is unreadable ({type(error).__name__}: {error})")
    return Found(record=record, status=record["status"], reason=record["reason"])


def _unfinished(store: Store, path: str) -> Found:
    if not store.exists(f"{path}/{FAILURE}"):
        return Found()
    try:
        return Found(status="failed", reason=str(json.loads(store.read(f"{path}/{FAILURE}"))["reason"]))
    except (ValueError, KeyError, TypeError):
        return Found(status="failed", reason=f"{FAILURE} is unreadable")


def _check_record(path: str, record: Mapping[str, Any], planned: PlannedTrial | None) -> None:
    """Raises `Damaged` for a record that is not this trial's, `UserError` for one of a newer version."""
    if record["format"] != RECORD_FORMAT:
        raise Damaged(path, f"{RECORD} has format {record['format']!r}; this version reads {RECORD_FORMAT}")
    if planned is not None and planned.key is not None and record["key"] != planned.key:
        raise Damaged(path, f"{RECORD} has the key {record['key'][:12]}..., the plan {planned.key[:12]}...")
    check_fields(f"{path}/{RECORD}", record["spec"])


def _trial_row(name: str, found: Found, planned: PlannedTrial | None) -> dict[str, Any]:
    """A row of trials.parquet; what the trial does not have is left out, so null."""
    record = found.record
    spec = record.get("spec") or (planned.spec if planned else None)
    group = group_name(name)
    return {
        "trial": name,
        "key": record.get("key") or (planned.key if planned else None),
        "group": group,
        "ladder": ladder_name(group),
        **(schema.spec_columns(spec) if spec else dict.fromkeys(schema.SPEC_FIELDS)),
        "status": found.status,
        "reason": found.reason,
        **_measured(record),
        **_provenance(record),
    }


def _measured(record: Mapping[str, Any]) -> dict[str, Any]:
    result, data = record.get("result") or {}, record.get("data") or {}
    collapsed, rows = result.get("collapsed_layers"), record.get("epochs")
    return {
        **{name: result.get(name) for name in _RESULTS},
        "n_collapsed_layers": None if collapsed is None else len(collapsed),
        **{name: record.get(name) for name in ("epochs_trained", "train_seconds")},
        "seconds_total": None if rows is None else sum(row["seconds"] for row in rows),
        **{name: data.get(name) for name in _DATA},
        "data_digest": data.get("digest"),
    }


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    states, sums = record.get("states") or {}, record.get("sha256") or {}
    versions, fingerprint = record.get("versions") or {}, record.get("fingerprint") or {}
    return {
        **{f"state_{which}": states.get(which) for which in ("initial", "rewind", "final")},
        **{f"sha256_{what}": sums.get(what) for what in ("weights", "masks", "metrics")},
        **{f"{what}_version": versions.get(what) for what in ("python", "torch", "fastai", "ray")},
        "code_version": fingerprint.get("code"),
        **{name: fingerprint.get(name) for name in ("device", "threads", "deterministic")},
    }


def _entries(found: Mapping[str, Found], part: str, columns: Iterable[str]) -> Iterable[dict[str, Any]]:
    """The entries of each record's list `part`, with the trial's name; what the schema does not know is left out."""
    known = set(columns)
    for name, trial in found.items():
        for entry in trial.record.get(part, ()):
            yield {"trial": name, **{key: value for key, value in entry.items() if key in known}}


def _with_sparsity(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {**layer, "sparsity_pct": 100 * (1 - layer["n_kept"] / layer["n_weights"])}
