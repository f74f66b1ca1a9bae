"""Lines that are stored below RUN/barriers: their rows, read with care, and the tables made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.barriers.networks import DONE
from analysis.labels import replicate_fields, without_fields
from analysis.tables import schema
from analysis.tables.index import write_noted
from analysis.tables.run_plan import RunPlan
from analysis.tables.schema import Row
from lth_trainable.store.json_files import from_json
from lth_trainable.store.layout import Odd, readable
from lth_trainable.store.store import MANIFEST, Damaged, Store

ROWS = "rows.json"  # in the folder of a line
NAMES = ("group", "ladder", "baseline_group")  # columns that are names of trials without some fields
MEASURED = {"error_a_pct", "error_b_pct", "error_max_pct", "at_max", "barrier_pp", "stable", "errors_pct"}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of lines. folder: below RUN/barriers. table: of `schema.TABLES`. order: columns that sort its lines."""

    folder: str
    table: str
    order: tuple[str, ...]

    def path(self, run: str, name: str) -> str:
        """Where a line of this name is stored."""
        return f"{run}/barriers/{self.folder}/{name}"


BETWEEN_COPIES = Kind(
    folder="lines", table="barriers", order=("rewound_to_step", "order_seed_a", "order_seed_b", "n_points", "device")
)
BETWEEN_NETWORKS = Kind(
    folder="connections", table="connections", order=("between", "level_a", "level_b", "n_points", "device")
)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the rows of a line have from their run, which may change, so that it is not stored with the line.

    columns: as they are. replicate: fields that are left out of the names of groups and ladders, see
    `labels.replicate_fields`.
    """

    run: str
    columns: Mapping[str, Any]
    replicate: tuple[str, ...]

    def row(self, stored: Row) -> Row:
        """A row of the table, from the row that is stored."""
        names = {name: stored[name] for name in NAMES if isinstance(stored.get(name), str)}
        return {
            **stored,
            **{name: without_fields(text, self.replicate) for name, text in names.items()},
            **self.columns,
        }


def write_lines(store: Store, run: str, plan: RunPlan, kind: Kind) -> None:
    """Write the table of all stored lines of this kind, of the trials in the plan."""
    order = {trial.name: number for number, trial in enumerate(plan.trials)}
    keys = {(trial.name, trial.key) for trial in plan.trials}
    given = given_by(run, plan, kind)
    paths = (kind.path(run, name) for name in store.folders(f"{run}/barriers/{kind.folder}"))
    lines = [read_line(store, path, kind, given) for path in paths]
    current = [rows for rows in lines if rows and (rows[0]["trial"], rows[0]["key"]) in keys]
    current.sort(key=lambda rows: (order[rows[0]["trial"]], *(rows[0][name] for name in kind.order)))
    write_noted(store, run, kind.table, schema.table(kind.table, (row for rows in current for row in rows)))


def read_line(store: Store, path: str, kind: Kind, given: Given) -> list[Row]:
    """The rows of a stored line; empty if it is missing or damaged. given: what is not stored with it."""
    content = read(store, path, ROWS)
    if content is None:
        return []
    try:
        with readable(ROWS):
            rows: list[Row] = [given.row(row) for row in from_json(content)]
            schema.table(kind.table, rows)  # raises if a value has another type
            return rows if all(_is_whole(row, kind.table) for row in rows) else []
    except Odd:
        return []


def given_by(run: str, plan: RunPlan, kind: Kind) -> Given:
    """What the rows of lines have from their run."""
    margin = {"margin_pp": float(plan.rule.margin_pp)} if kind is BETWEEN_NETWORKS else {}
    replicate = replicate_fields(trial.name for trial in plan.trials)
    return Given(run=run, columns={"run": run, **margin}, replicate=replicate)


def _is_whole(row: Row, table: str) -> bool:
    """Whether a row has a value in every column that must have one, and an error at each point."""
    fields = schema.TABLES[table]
    missing = {field.name for field in fields if not field.nullable and row.get(field.name) is None}
    is_measured = row.get("status", DONE) == DONE
    needed = set(fields.names) - (set() if is_measured else MEASURED)
    same = not is_measured or len(row.get("alphas") or ()) == len(row.get("errors_pct") or ()) > 0
    return not missing and needed <= row.keys() and same


def is_sealed(store: Store, path: str) -> bool:
    """Whether the folder exists and is complete, judging by the sizes of its files."""
    try:
        return store.find(path) is not None
    except Damaged:
        return False


def unseal(store: Store, path: str) -> None:
    """Before a damaged folder is made again: `Store.seal` leaves alone what is sealed with the right sizes."""
    if is_sealed(store, path):
        store.delete(f"{path}/{MANIFEST}")


def read(store: Store, path: str, name: str) -> bytes | None:
    """The content of a file in a sealed folder; None if it is missing or damaged."""
    try:
        folder = store.find(path)
        return store.content(folder, name) if folder is not None else None
    except Damaged:
        return None
