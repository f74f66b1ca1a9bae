"""From the files of a run to its tables, verdicts and report.

The plan says which trials there should be, the store which ones there are. A trial that is not finished, or whose files
are damaged, gets a row with its status and nulls; nothing is dropped and nothing becomes 0. Records that are unchanged
since the last gather are not read again: their rows come from its tables (`tables/index.py`). The same records always
give the same bytes, however the tables were put together.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from analysis.adoption.plan import find_or_adopt
from analysis.labels import group_name, ladder_name, replicate_fields
from analysis.published.claims import read_claims
from analysis.published.holding import hold
from analysis.tables import schema
from analysis.tables.clocks import clock_columns
from analysis.tables.columns import spec_columns
from analysis.tables.exclusions import EXCLUSIONS, Exclusions, check_trials, read_exclusions
from analysis.tables.geometry import geometry_tables
from analysis.tables.index import (
    Geometry,
    Known,
    Made,
    Previous,
    note_others,
    read_previous,
    sha256_of_report,
    signature_of,
    write_index,
)
from analysis.tables.inputs import inputs_of, list_settled
from analysis.tables.parquet import OPTIONAL, Frames, read_table, write_table
from analysis.tables.profile_schema import profile_values
from analysis.tables.record_rows import ENTRIES, Entries, epochs_to_dense_accuracy
from analysis.tables.records import Files, Found, is_begun, read_trials, trial_names
from analysis.tables.roles import AGAIN, is_dense_again
from analysis.tables.run_plan import KEPT, PUBLISHED, PlanEntry, RunPlan, read_plan, role_of
from analysis.tables.spans import arranged
from analysis.verdicts.claims import verdicts
from analysis.verdicts.variances import variance_rows
from lth_trainable.collector import no_garbage_collection
from lth_trainable.errors import UserError
from lth_trainable.store.image_bits import to_bytes
from lth_trainable.store.store import PLAN, Store

_RESULTS = (
    "sparsity_pct", "n_weights", "n_kept", "valid_accuracy", "best_valid_accuracy", "test_accuracy", "valid_loss",
    "test_loss", "balanced_accuracy", "chance_accuracy", "early_stop_epoch", "early_stop_iteration",
    "early_stop_censored", "early_stop_valid_loss", "early_stop_valid_accuracy", "early_stop_test_accuracy",
    "epochs_total", "flops_dense", "flops_sparse", "inference_flops_dense", "inference_flops_sparse",
)  # fmt: skip
_RIGHT = ("valid", "test", "early_stop_test")
_DATA = ("n_train", "n_valid", "n_test", "majority_class_accuracy")
_VERSIONS = ("python", "torch", "fastai", "ray", "cuda", "cudnn", "driver")


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The tables of a run by name, and what the next gather needs. geometry: what to make of overlaps and signs.

    inputs: digest of what they follow from, see `inputs_of`. is_new: false if they are those of the last gather.
    """

    tables: Mapping[str, pa.Table]
    known: Mapping[str, Known]
    geometry: Geometry
    inputs: str | None
    is_new: bool = True


def gather(path: str | os.PathLike[str], geometry: Geometry | None = None) -> Frames:
    """Write Parquet, verdicts and `RUN/report.html` of the run at `path`, and return its tables.

    geometry: whether masks and weights are compared (tables overlaps and signs): "auto" if there is little to read,
    "all" or "none"; None: as last time, "auto" the first time. Trials that no sweep has planned are adopted, see
    `analysis.adopt`. Raises `UserError` if there is no run.
    """
    return gather_run(*find_or_adopt(path).of, geometry)


def gather_run(store: Store, run: str, geometry: Geometry | None = None) -> Frames:
    """`gather` of a run in an open store."""
    store.in_use()  # what takes long is not given up for one answer that does not come
    if store.exists(f"{run}/{KEPT}"):
        raise UserError(
            f"{run}: found the kept results of a run ({KEPT}), whose records are in its archive; expected the folder "
            "of a run; unpack the archive, and gather that"
        )
    with no_garbage_collection():
        plan = read_plan(store, run)
        gathered = collect(store, run, plan, geometry)
        frames = Frames(tables=gathered.tables)
        if not gathered.is_new:
            note_others(store, run)
            return frames
        from analysis.report.html import report_bytes, write_report  # matplotlib and jinja2 take a second to import

        report = report_bytes(store, run, frames, plan)
        ours = {name: table for name, table in gathered.tables.items() if name not in OPTIONAL}
        sums = {name: write_table(store, run, name, table) for name, table in ours.items()}
        made = Made(inputs=gathered.inputs, report=hashlib.sha256(report).hexdigest())
        write_index(store, run, sums, gathered.known, gathered.geometry, made)
        write_report(store, run, report)
    return frames


def collect(store: Store, run: str, plan: RunPlan, geometry: Geometry | None = None) -> Gathered:
    """All tables, made from what is new and what the last gather left; tables of other commands as they are stored.

    Nothing is written. Raises `UserError` if a trial is excluded that the run does not have.
    """
    previous = read_previous(store, run)
    folders, listed_at = list_settled(store, run)
    names = trial_names(plan, folders)
    excluded = read_exclusions(store, run)
    check_trials(f"{run}/{EXCLUSIONS}", excluded, names)
    signatures = {name: signature_of(folders.get(name, {}), listed_at) for name in names}
    wanted: Geometry = geometry or previous.geometry or "auto"
    inputs = inputs_of(store, run, plan, folders, signatures, excluded, wanted)
    stored = {name: read_table(store, run, name) for name in OPTIONAL}
    others = {name: schema.table(name, []) if table is None else table for name, table in stored.items()}
    if previous.is_all_of(inputs) and sha256_of_report(store, run) == previous.made.report:
        tables = {**previous.tables, **others}
        return Gathered(tables=tables, known=previous.trials, geometry=wanted, inputs=inputs, is_new=False)
    trials = _read(store, run, plan, folders, names, signatures, previous)
    tables, known = _tabulate(run, plan, trials, signatures, excluded, previous)
    tables |= geometry_tables(store, run, tables, wanted, previous.compared)
    tables["published"] = _published(run, plan, tables["trials"], others["supermasks"])
    return Gathered(tables={**tables, **others}, known=known, geometry=wanted, inputs=inputs)


def _published(run: str, plan: RunPlan, trials: pa.Table, supermasks: pa.Table) -> pa.Table:
    """The table of what papers have published and the run is held against."""
    claims = read_claims(f"{run}/{PLAN}, {PUBLISHED}", plan.published)
    rows = hold(claims, trials.to_pylist(), plan.rule, supermasks.to_pylist()) if claims else []
    return schema.table("published", ({**row, "run": run} for row in rows))


def _read(
    store: Store,
    run: str,
    plan: RunPlan,
    folders: Mapping[str, Files],
    names: Sequence[str],
    signatures: Mapping[str, str | None],
    previous: Previous,
) -> Iterator[tuple[str, Found | Known]]:
    """What the store has of each trial, in the order of names; only what is new since the last gather is read."""
    planned = {trial.name: trial for trial in plan.trials}
    known = {
        name: previous.trials[name] for name in names if _is_known(previous, planned.get(name), name, signatures[name])
    }
    new = [name for name in names if name not in known and is_begun(folders.get(name, {}))]
    found = read_trials(store, run, new, planned)
    waiting = set(new)
    for name in names:
        yield next(found) if name in waiting else (name, known.get(name, Found()))


def tabulate(run: str, plan: RunPlan, found: Mapping[str, Found]) -> dict[str, pa.Table]:
    """The tables that follow from records and plan alone. Pure."""
    return _tabulate(run, plan, found.items(), dict.fromkeys(found), {}, Previous())[0]


def _tabulate(
    run: str,
    plan: RunPlan,
    trials: Iterable[tuple[str, Found | Known]],
    signatures: Mapping[str, str | None],
    excluded: Exclusions,
    previous: Previous,
) -> tuple[dict[str, pa.Table], dict[str, Known]]:
    """Tables of records, and what is known of each trial that need not be read again. trials: in their order."""
    planned = {trial.name: trial for trial in plan.trials}
    before = {row["trial"]: row for row in previous.tables["trials"].to_pylist()} if previous.trials else {}
    rows, entries, settled, order = [], Entries(run), {}, []
    for name, trial in trials:
        if isinstance(trial, Known):
            row, settled[name] = before[name], trial
        elif trial.status == "missing" and name not in planned:
            continue
        else:
            row, signature = _trial_row(run, name, trial, planned.get(name)), signatures[name]
            if trial.record:
                entries.add(name, trial.record)
                if signature is not None:
                    settled[name] = Known(mark=signature, key=row["key"], status=trial.status, reason=trial.reason)
        rows.append({**row, **_by_the_run(row, trial, planned.get(name), excluded.get(name))})
        order.append(((name,), int(isinstance(trial, Known))))
    replicate = replicate_fields(row["trial"] for row in rows)
    rows = [{**row, **_names(row, replicate)} for row in rows]
    fresh = entries.tables()
    tables = {name: arranged(order, ["trial"], fresh[name], previous.tables.get(name, fresh[name])) for name in ENTRIES}
    sooner = epochs_to_dense_accuracy(rows, tables["epochs"], plan.rule.tuned)
    tables["trials"] = schema.table(
        "trials", (row | clock_columns(row) | more for row, more in zip(rows, sooner, strict=True))
    )
    del rows, before, sooner  # of very many trials they take as much memory as all else
    judged = tables["trials"].to_pylist()
    tables["verdicts"] = schema.table("verdicts", ({"run": run, **row} for row in verdicts(judged, plan.rule)))
    tables["variances"] = schema.table("variances", ({"run": run, **row} for row in variance_rows(judged, plan.rule)))
    return tables, settled


def _is_known(previous: Previous, planned: PlanEntry | None, name: str, signature: str | None) -> bool:
    """Whether the last gather has read this record, unchanged since, and it is the one that the plan asks for."""
    known = previous.trials.get(name)
    if known is None or signature is None or known.mark != signature:
        return False
    return planned is None or planned.key in (None, known.key)


def _by_the_run(
    row: schema.Row, trial: Found | Known, planned: PlanEntry | None, exclusion: Mapping[str, str] | None
) -> dict[str, Any]:
    """The columns that do not follow from the record of the trial, but from the plan and from exclusions."""
    status, reason = ("excluded", exclusion["reason"]) if exclusion else (trial.status, trial.reason)
    role = planned.role if planned else role_of(row) if row["control"] else None
    parent = planned.parent if planned else None
    return {"role": role, "parent": parent, "status": status, "reason": reason}


def _names(row: schema.Row, replicate: Sequence[str]) -> dict[str, str]:
    """The group and the ladder of a trial. replicate: the fields that make the replicates of the run."""
    group = group_name(row["trial"], replicate)
    return {"group": f"{group}-{AGAIN}" if is_dense_again(row) else group, "ladder": _ladder(group)}


@functools.lru_cache(maxsize=1 << 12)
def _ladder(group: str) -> str:
    return ladder_name(group)


def _trial_row(run: str, name: str, found: Found, planned: PlanEntry | None) -> dict[str, Any]:
    """A row of trials.parquet without `_by_the_run` and `_names`; what the trial does not have is left out, so null."""
    record = found.record
    spec = record.get("spec") or (planned.spec if planned else None)
    return {
        "run": run,
        "trial": name,
        "key": record.get("key") or (planned.key if planned else None),
        **(spec_columns(spec) if spec else dict.fromkeys(schema.SPEC_FIELDS)),
        **_precision_of_older(record),
        **_measured(record),
        **_provenance(record),
    }


def _precision_of_older(record: Mapping[str, Any]) -> dict[str, str]:
    """The precision of a trial that an older version trained on a GPU: convolutions in TF32 in place of fp32."""
    fingerprint = record.get("fingerprint") or {}
    on_gpu = str(fingerprint.get("device", "")).startswith("cuda")
    return {"precision": "tf32"} if on_gpu and "memory_format" not in fingerprint else {}


def _measured(record: Mapping[str, Any]) -> dict[str, Any]:
    result, data, right = (record.get(name) or {} for name in ("result", "data", "right"))
    collapsed, rows = result.get("collapsed_layers"), record.get("epochs")
    return {
        **{name: result.get(name) for name in _RESULTS},
        "n_collapsed_layers": None if collapsed is None else len(collapsed),
        **_of_all_weights(record, result),
        **{name: record.get(name) for name in ("epochs_trained", "train_seconds")},
        **profile_values(record.get("profile")),
        "seconds_total": None if rows is None else sum(row["seconds"] for row in rows),
        **{name: data.get(name) for name in _DATA},
        **{f"{name}_right": to_bytes(text) for name in _RIGHT if (text := right.get(name)) is not None},
        "data_digest": data.get("digest"),
    }


def _of_all_weights(record: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """How much of all weights is prunable and pruned; nothing for a record of an older version."""
    found = record.get("all_weights")
    if not found or not found["n"]:
        return {}
    most_first = sorted(found["not_pruned"].items(), key=lambda item: -item[1])
    return {
        "n_all_weights": found["n"],
        "prunable_pct": 100 * result["n_weights"] / found["n"],
        "pruned_of_all_pct": 100 * (result["n_weights"] - result["n_kept"]) / found["n"],
        "not_pruned": "; ".join(f"{reason}: {n:,}" for reason, n in most_first),
        "n_dead_filters": sum(record.get("dead_filters", {}).values()),
    }


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    states, sums = record.get("states") or {}, record.get("sha256") or {}
    versions, fingerprint = record.get("versions") or {}, record.get("fingerprint") or {}
    return {
        **{f"state_{which}": states.get(which) for which in ("initial", "rewind", "final")},
        **{f"sha256_{what}": sums.get(what) for what in ("weights", "masks", "metrics")},
        **{f"{what}_version": versions.get(what) for what in _VERSIONS},
        "code_version": fingerprint.get("code"),
        "code_sha256": versions.get("source"),
        **{name: fingerprint.get(name) for name in ("device", "threads", "deterministic", "memory_format")},
        "replicas": fingerprint.get("replicas", 1) if fingerprint else None,
    }
