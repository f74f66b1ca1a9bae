"""The lists of a record as columns: rows of epochs, levels and layers, added a trial at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from analysis.tables.levels import level_rows, sparsity_pct
from analysis.tables.schema import TABLES, Row

ENTRIES = ("epochs", "levels", "layers")
_CHUNK = 50_000  # rows that are Python objects at a time


class Entries:
    """Tables of the lists of many records. What the schema does not know is left out; what a row lacks is null."""

    def __init__(self, run: str) -> None:
        self._columns = {name: _Columns(TABLES[name], run) for name in ENTRIES}

    def add(self, trial: str, record: Mapping[str, Any]) -> None:
        """The rows of one trial."""
        self._columns["epochs"].add(trial, record["epochs"])
        self._columns["levels"].add(trial, level_rows(record))
        self._columns["layers"].add(trial, [_layer_row(layer) for layer in record["layers"]])

    def tables(self) -> dict[str, pa.Table]:
        """The tables, in the order in which the trials came."""
        return {name: columns.table() for name, columns in self._columns.items()}


class _Columns:
    def __init__(self, schema: pa.Schema, run: str) -> None:
        self.schema, self.run = schema, run
        self.names = [name for name in schema.names if name not in ("run", "trial")]
        self.chunks: list[pa.RecordBatch] = []
        self._begin()

    def add(self, trial: str, rows: Sequence[Row]) -> None:
        self.trials += [trial] * len(rows)
        for name in self.names:
            self.values[name] += [row.get(name) for row in rows]
        if len(self.trials) >= _CHUNK:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self.chunks, self.schema)

    def _begin(self) -> None:
        self.trials: list[str] = []
        self.values: dict[str, list[Any]] = {name: [] for name in self.names}

    def _flush(self) -> None:
        columns = {"run": [self.run] * len(self.trials), "trial": self.trials, **self.values}
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        self.chunks.append(pa.record_batch(arrays, schema=self.schema))
        self._begin()


def _layer_row(layer: Row) -> dict[str, Any]:
    return {**layer, "sparsity_pct": sparsity_pct(layer["n_kept"], layer["n_weights"])}
