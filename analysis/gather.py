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
from analysis.tables.ahead import NOT_READ, Early
from analysis.tables.clocks import clock_columns
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
from analysis.tables.record_rows import ENTRIES, Entries, epochs_to_dense_accuracy
from analysis.tables.records import Files, Found, is_begun, read_trials, trial_names
from analysis.tables.roles import AGAIN, is_dense_again
from analysis.tables.run_plan import KEPT, PUBLISHED, PlanEntry, RunPlan, read_plan, role_of
from analysis.tables.spans import arranged
from analysis.tables.trial_rows import trial_row
from analysis.verdicts.claims import verdicts
from analysis.verdicts.variances import variance_rows
from lth_trainable.collector import no_garbage_collection
from lth_trainable.errors import UserError
from lth_trainable.store.store import PLAN, Store


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


def gather(
    path: str | os.PathLike[str], geometry: Geometry | None = None, *, early: Mapping[str, Early] = NOT_READ
) -> Frames:
    """Write Parquet, verdicts and `RUN/report.html` of the run at `path`, and return its tables.

    geometry: whether masks and weights are compared (tables overlaps and signs): "auto" if there is little to read,
    "all" or "none"; None: as last time, "auto" the first time. Trials that no sweep has planned are adopted, see
    `analysis.adopt`. early: trials that were read before, by name (`analysis.tables.ahead`). Raises `UserError` if
    there is no run.
    """
    return gather_run(*find_or_adopt(path).of, geometry, early=early)


def gather_run(
    store: Store, run: str, geometry: Geometry | None = None, *, early: Mapping[str, Early] = NOT_READ
) -> Frames:
    """`gather` of a run in an open store."""
    store.in_use()  # what takes long is not given up for one answer that does not come
    if store.exists(f"{run}/{KEPT}"):
        raise UserError(
            f"{run}: found the kept results of a run ({KEPT}), whose records are in its archive; expected the folder "
            "of a run; unpack the archive, and gather that"
        )
    with no_garbage_collection():
        plan = read_plan(store, run)
        gathered = collect(store, run, plan, geometry, early)
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


def collect(
    store: Store, run: str, plan: RunPlan, geometry: Geometry | None = None, early: Mapping[str, Early] = NOT_READ
) -> Gathered:
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
    trials = _read(store, run, plan, folders, names, signatures, previous.trials, early)
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
    previous: Mapping[str, Known],
    early: Mapping[str, Early],
) -> Iterator[tuple[str, Found | Known | Early]]:
    """What the store has of each trial, in the order of names; only what was not read before, as it is now, is read."""
    planned = {trial.name: trial for trial in plan.trials}
    known: dict[str, Known | Early] = {}
    for name in names:
        if name in previous and _is_the_same(previous[name], planned.get(name), signatures[name]):
            known[name] = previous[name]
        elif name in early and _is_the_same(early[name].known, planned.get(name), signatures[name]):
            known[name] = early[name]
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
    trials: Iterable[tuple[str, Found | Known | Early]],
    signatures: Mapping[str, str | None],
    excluded: Exclusions,
    previous: Previous,
) -> tuple[dict[str, pa.Table], dict[str, Known]]:
    """Tables of records, and what is known of each trial that need not be read again. trials: in their order."""
    planned = {trial.name: trial for trial in plan.trials}
    before = {row["trial"]: row for row in previous.tables["trials"].to_pylist()} if previous.trials else {}
    rows, entries, settled, order = [], Entries(run), {}, []
    for name, trial in trials:
        of_record: Found | Known = trial.known if isinstance(trial, Early) else trial
        if isinstance(trial, Known):
            row, settled[name] = before[name], trial
        elif isinstance(trial, Early):
            row, settled[name] = trial.row, trial.known
            entries.append(trial.tables)
        elif trial.status == "missing" and name not in planned:
            continue
        else:
            row, signature = trial_row(run, name, trial, planned.get(name)), signatures[name]
            if trial.record:
                entries.add(name, trial.record)
                if signature is not None:
                    settled[name] = Known(mark=signature, key=row["key"], status=trial.status, reason=trial.reason)
        rows.append({**row, **_by_the_run(row, of_record, planned.get(name), excluded.get(name))})
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


def _is_the_same(known: Known, planned: PlanEntry | None, signature: str | None) -> bool:
    """Whether a record has not changed since it was read, and is the one that the plan asks for."""
    return signature is not None and known.mark == signature and (planned is None or planned.key in (None, known.key))


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
