"""From records to rows: their epochs, levels and layers, and the epochs each trial took to dense accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import pyarrow as pa

from analysis.tables.clocks import epochs_before
from analysis.tables.roles import is_dense_network
from analysis.tables.schema import SPEC_FIELDS, TABLES, Row
from analysis.tables.spans import last_levels, spans

ENTRIES = ("epochs", "levels", "layers")
_CHUNK = 50_000  # rows held as Python objects at a time
COLUMNS = ("epochs_to_dense_accuracy", "epochs_to_dense_accuracy_censored")
_MAY_DIFFER = ("control", "layers", "reset_end", "order_seed")  # although dense trials have these fields too


class Entries:
    """Tables of the lists of many records. Entries that no column is for are left out; missing ones are null."""

    def __init__(self, run: str) -> None:
        self._columns = {name: _Columns(TABLES[name], run) for name in ENTRIES}

    def add(self, trial: str, record: Mapping[str, Any]) -> None:
        """Add the rows of one trial."""
        self._columns["epochs"].add(trial, record["epochs"])
        self._columns["levels"].add(trial, level_rows(record))
        self._columns["layers"].add(trial, [_layer_row(layer) for layer in record["layers"]])

    def append(self, tables: Mapping[str, pa.Table]) -> None:
        """Add the rows of one trial, as `tables` has given them."""
        for name, columns in self._columns.items():
            columns.append(tables[name])

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
        for name, values in _columns(rows, self.names).items():
            self.values[name] += values
        if len(self.trials) >= _CHUNK:
            self._flush()

    def append(self, table: pa.Table) -> None:
        self._flush()
        self.chunks += table.to_batches()

    def table(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self.chunks, self.schema).combine_chunks()

    def _begin(self) -> None:
        self.trials: list[str] = []
        self.values: dict[str, list[Any]] = {name: [] for name in self.names}

    def _flush(self) -> None:
        if not self.trials:
            return
        columns = {"run": [self.run] * len(self.trials), "trial": self.trials, **self.values}
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        self.chunks.append(pa.record_batch(arrays, schema=self.schema))
        self._begin()


def _columns(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """The values of these entries, row by row; None where a row does not have one."""
    try:
        return dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True)) if rows else {}
    except KeyError:  # a record of an older version
        return {name: [row.get(name) for row in rows] for name in names}


def _layer_row(layer: Row) -> dict[str, Any]:
    return {**layer, "sparsity_pct": sparsity_pct(layer["n_kept"], layer["n_weights"])}


# -- levels


def sparsity_pct(n_kept: int, n_weights: int) -> float:
    """100 (1 - n_kept / n_weights): percent of the weights that are zero."""
    return 100 * (1 - n_kept / n_weights)


def level_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each level of a record, dense first. A level that was pruned again at once has nulls for training."""
    layers: dict[int, list[Row]] = defaultdict(list)
    for layer in record["layers"]:
        layers[layer["level"]].append(layer)
    epochs: dict[int, list[Row]] = defaultdict(list)
    for epoch in record["epochs"]:
        epochs[epoch["level"]].append(epoch)
    return [
        {"level": level, **_mask(found), **_training(epochs.get(level, ()), record["trial"])}
        for level, found in sorted(layers.items())
    ]


def _mask(layers: Sequence[Row]) -> dict[str, Any]:
    n_weights, n_kept = sum(layer["n_weights"] for layer in layers), sum(layer["n_kept"] for layer in layers)
    return {
        "n_weights": n_weights, "n_kept": n_kept, "sparsity_pct": sparsity_pct(n_kept, n_weights),
        "n_collapsed_layers": sum(layer["n_kept"] == 0 for layer in layers),
    }  # fmt: skip


def _training(epochs: Sequence[Row], trial: str) -> dict[str, Any]:
    own = sum(row["trained_by"] == trial for row in epochs)
    counts = {"n_epochs": len(epochs), "n_own_epochs": own, "seconds": sum(row["seconds"] for row in epochs)}
    if not epochs:
        return counts
    last = epochs[-1]
    measured = [row for row in epochs if row["valid_loss"] is not None]  # a level that diverged has nulls at its end
    stop = min(measured, key=lambda row: row["valid_loss"], default={})
    return {
        **counts,
        "last_epoch": last["epoch"], "train_loss": last["train_loss"], "valid_loss": last["valid_loss"],
        "valid_accuracy": last["valid_accuracy"],
        "best_valid_accuracy": max((row["valid_accuracy"] for row in measured), default=None),
        "early_stop_epoch": stop.get("epoch"), "early_stop_valid_loss": stop.get("valid_loss"),
        "early_stop_valid_accuracy": stop.get("valid_accuracy"),
    }  # fmt: skip


# -- epochs to dense accuracy


def epochs_to_dense_accuracy(trials: Sequence[Row], epochs: pa.Table, tuned: bool = False) -> list[dict[str, Any]]:
    """The columns of `COLUMNS` for each row of trials.parquet, in the order of the rows. Pure.

    The accuracy to reach is that of the dense trial of the same seed, budget, data, model and optimisation after its
    last epoch. The first column is the number of the first epoch since the last prune after which the validation
    accuracy is at least that, counted from the initialisation (`clocks`): of a ticket rewound to epoch 3 the first is
    epoch 4. A trial that never reaches it is censored, so None and True: it takes longer than the level had epochs.
    None and None means unknown: either trial is not done, the dense one is not planned, their data differ, the weights
    are not rewound after a prune, or the trial ends with weights that its epochs did not train (a supermask). A dense
    trial is measured by its own last epoch. Several dense trials of a seed (with several order seeds) count with their
    mean. tuned: whether tickets and dense networks each have a learning rate of their own, so that it may differ.
    """
    thresholds, curves = _DenseAccuracies(trials, ("lr",) if tuned else ()), _last_levels(epochs)
    found = ((thresholds.of(row), curves.get(row["trial"], ()), epochs_before(row)) for row in trials)
    return [dict(zip(COLUMNS, _first(*of_trial), strict=True)) for of_trial in found]


class _DenseAccuracies:
    """Validation accuracy of the dense trials at their end, by the fields that a ticket must share with them."""

    def __init__(self, trials: Sequence[Row], also_free: Sequence[str]) -> None:
        dense = [row for row in trials if is_dense_network(row)]
        acting = [name for name in SPEC_FIELDS if any(row[name] is not None for row in dense)]
        self.fields = (*(name for name in acting if name not in (*_MAY_DIFFER, *also_free)), "data_digest")
        self.found: Mapping[tuple[Any, ...], list[float]] = defaultdict(list)
        for row in filter(_is_done, dense):
            self.found[self._key(row)].append(row["valid_accuracy"])

    def of(self, row: Row) -> float | None:
        found = self.found.get(self._key(row), ()) if _is_done(row) and not row["reset_end"] else ()
        return sum(found) / len(found) if found else None

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.fields)


def _is_done(row: Row) -> bool:
    return row["status"] == "done" and row["valid_accuracy"] is not None


def _last_levels(epochs: pa.Table) -> dict[str, list[float | None]]:
    """Validation accuracy of each epoch since the last prune, by trial; rows come in the order of training."""
    last = last_levels(epochs.select(["trial", "level", "valid_accuracy"]))
    accuracies = last["valid_accuracy"].to_pylist()
    return {trial: accuracies[start:end] for (trial,), (start, end) in spans(last, "trial").items()}


def _first(
    threshold: float | None, curve: Iterable[float | None], before: int | None
) -> tuple[int | None, bool | None]:
    """before: epochs in the weights at the start of the curve; None if they have no clock."""
    if threshold is None or before is None:
        return None, None
    reached = (
        number for number, accuracy in enumerate(curve, before + 1) if accuracy is not None and accuracy >= threshold
    )
    first = next(reached, None)
    return first, first is None
