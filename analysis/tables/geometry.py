"""The tables overlaps and signs: whether a gather makes them, and how much it would have to read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from analysis.tables import schema
from analysis.tables.index import Geometry
from analysis.tables.overlaps import find_families, overlaps_table
from analysis.tables.parquet import Frames
from analysis.tables.schema import SPEC_FIELDS, Row
from analysis.tables.signs import TIMES, signs_table
from lth_trainable.store.store import Store

AUTO_BYTES = 256 << 20  # read unasked
AUTO_ROWS = 100_000  # written unasked
_STATES = ("state_initial", "state_rewind", "state_final")
_COLUMNS = ["trial", "status", "n_weights", *SPEC_FIELDS, *_STATES]


@dataclass(frozen=True, kw_only=True)
class Work:
    """About how much a table takes to make from nothing: bytes to read, rows to write."""

    bytes: float
    rows: float

    @property
    def is_little(self) -> bool:
        return self.bytes <= AUTO_BYTES and self.rows <= AUTO_ROWS


def geometry_tables(
    store: Store, run: str, tables: Mapping[str, pa.Table], wish: Geometry, before: Mapping[str, pa.Table]
) -> dict[str, pa.Table]:
    """The tables overlaps and signs, empty if they are not wanted. before: the tables of the last gather.

    "auto" decides by the size of the whole run, not by what is new in it: the same run always has the same tables.
    """
    trials = tables["trials"].select(_COLUMNS).to_pylist()
    work = work_of(trials, tables["levels"].num_rows, tables["layers"].num_rows)
    wanted = {name for name, of in work.items() if wish == "all" or (wish == "auto" and of.is_little)}
    found = {name: schema.table(name, []) for name in work}
    if "overlaps" in wanted:
        found["overlaps"] = overlaps_table(store, run, tables, before)
    if "signs" in wanted:
        found["signs"] = signs_table(store, tables, before)
    return found


def left_out(frames: Frames) -> dict[str, Work]:
    """Tables that are empty because they are too large to be made unasked, with their size."""
    work = work_of(
        frames.tables["trials"].select(_COLUMNS).to_pylist(),
        frames.tables["levels"].num_rows,
        frames.tables["layers"].num_rows,
    )
    return {name: of for name, of in work.items() if not of.is_little and not frames.tables[name].num_rows}


def work_of(trials: Sequence[Row], n_levels: int, n_layers: int) -> dict[str, Work]:
    """Size of each table, from the rows of trials and the numbers of rows of levels and layers."""
    families = find_families(trials)
    weights = {row["trial"]: row["n_weights"] for row in trials if row["n_weights"] is not None}
    done = [row for row in trials if row["status"] == "done"]
    levels_a_trial, rows_a_pair = n_levels / max(1, len(weights)), 1 + n_layers / max(1, n_levels)
    members = {trial for family in families for trial in family.trials}
    pairs = sum(1 for family in families for _ in family.pairs)
    states = {row[state]: row["n_weights"] for row in done for state in _STATES if row[state]}
    return {
        "overlaps": Work(bytes=sum(weights[m] for m in members) / 8 * levels_a_trial, rows=pairs * rows_a_pair),
        "signs": Work(bytes=4 * sum(states.values()), rows=len(TIMES) * len(done) * rows_a_pair),
    }
