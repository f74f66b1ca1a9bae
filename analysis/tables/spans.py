"""Blocks of rows that share a key, such as the rows of a trial, and how to put them into another order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Key = tuple[str, ...]


def spans(table: pa.Table, *keys: str) -> dict[Key, tuple[int, int]]:
    """The rows of each key: the first, and one past the last. keys: the columns whose values make up a key.

    The rows of a key must be next to each other, and the columns must not have nulls.
    """
    if not table.num_rows:
        return {}
    starts = np.ones(table.num_rows, bool)
    starts[1:] = False
    for key in keys:
        column = table[key]
        starts[1:] |= pc.not_equal(column.slice(1), column.slice(0, table.num_rows - 1)).to_numpy()
    first = np.flatnonzero(starts)
    values = zip(*(table[key].take(pa.array(first)).to_pylist() for key in keys), strict=True)
    return dict(zip(values, zip(first.tolist(), [*first[1:].tolist(), table.num_rows], strict=True), strict=True))


def last_levels(table: pa.Table, trials: Iterable[str] | None = None) -> pa.Table:
    """The rows of the last level of each of these trials, or of all. table: with the columns trial and level."""
    if trials is not None:
        table = table.filter(pc.is_in(table["trial"], pa.array(trials, pa.string())))
    codes = table["trial"].combine_chunks().dictionary_encode().indices.to_numpy()
    levels = table["level"].to_numpy()
    last = np.full(codes.max(initial=-1) + 1, -1, dtype=np.int64)
    np.maximum.at(last, codes, levels)
    return table.filter(pa.array(levels == last[codes]))


def arranged(order: Iterable[tuple[Key, int]], keys: Sequence[str], *sources: pa.Table) -> pa.Table:
    """Rows of several tables in the given order. Each key comes with the number of the table to take its rows from."""
    places = [spans(source, *keys) for source in sources]
    pieces: list[tuple[int, int, int]] = []
    for key, which in order:
        if key not in places[which]:
            continue
        start, end = places[which][key]
        if pieces and pieces[-1][0] == which and pieces[-1][2] == start:
            pieces[-1] = (which, pieces[-1][1], end)
        else:
            pieces.append((which, start, end))
    slices = [sources[which].slice(start, end - start) for which, start, end in pieces]
    return pa.concat_tables(slices or [sources[0].slice(0, 0)])
