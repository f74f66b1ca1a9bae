"""Whether each seed has a split of its own (`--split-seed seed`): then the replicate is the seed with its split."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.labels import is_own_split
from analysis.tables.schema import Row

OWN_SPLIT = "seed"  # in place of the split seed, in rows of trials whose split is their seed's own


def with_own_splits(trials: Iterable[Row]) -> list[Row]:
    """The rows of a run; if each seed has a split of its own, with `OWN_SPLIT` as the split seed of each.

    So trials that differ only in their seeds and the splits of these are alike in all fields but the seed, as in a run
    with one split. Rows that have it already stay as they are.
    """
    rows = list(trials)
    known = [row for row in rows if row["seed"] is not None and row["split_seed"] is not None]
    if not is_own_split((row["seed"], row["split_seed"]) for row in known):
        return rows
    return [{**row, "split_seed": OWN_SPLIT} if row["split_seed"] is not None else row for row in rows]


def split_of(row: Row) -> int:
    """The split seed of a trial, also of a row with `OWN_SPLIT`."""
    return int(row["seed"] if row["split_seed"] == OWN_SPLIT else row["split_seed"])
