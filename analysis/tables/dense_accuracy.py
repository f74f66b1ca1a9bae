"""How soon each trial was as good as its dense network: epochs since the last prune, on the validation part.

The mark is the accuracy of the dense trial of the same seed, budget, data, model and optimisation after its last epoch.
A trial that never comes to it is censored: all that is known is that it takes longer than the level had epochs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from analysis.tables.schema import SPEC_FIELDS, Row

COLUMNS = ("epochs_to_dense_accuracy", "epochs_to_dense_accuracy_censored")
_MAY_DIFFER = ("control", "layers", "reset_end", "order_seed")  # though they stand in a dense trial's spec too


def epochs_to_dense_accuracy(trials: Sequence[Row], epochs: pa.Table) -> list[dict[str, Any]]:
    """The columns of `COLUMNS` for each row of trials.parquet, in their order. Pure.

    The number of the first epoch since the last prune, from 1, after which the validation accuracy is at least the
    dense network's. None and True: never; None and None: unknown, where either trial is not done, the dense one is not
    planned, their data differ, or the trial ends with weights that its epochs did not train (a supermask). A dense
    trial is measured by its own last epoch. Several dense trials of a seed (order seeds) give their mean.
    """
    marks, curves = _DenseAccuracies(trials), _last_levels(epochs)
    found = ((marks.of(row), curves.get(row["trial"], ())) for row in trials)
    return [dict(zip(COLUMNS, _first(mark, curve), strict=True)) for mark, curve in found]


class _DenseAccuracies:
    """Validation accuracy of the dense trials at their end, by what a ticket must share with them."""

    def __init__(self, trials: Sequence[Row]) -> None:
        dense = [row for row in trials if row["control"] == "dense"]
        acting = [name for name in SPEC_FIELDS if any(row[name] is not None for row in dense)]
        self.fields = (*(name for name in acting if name not in _MAY_DIFFER), "data_digest")
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
    curves: dict[str, list[float | None]] = {}
    levels: dict[str, int] = {}
    columns = (epochs[name].to_pylist() for name in ("trial", "level", "valid_accuracy"))
    for trial, level, accuracy in zip(*columns, strict=True):
        if levels.get(trial) != level:
            levels[trial], curves[trial] = level, []
        curves[trial].append(accuracy)
    return curves


def _first(mark: float | None, curve: Iterable[float | None]) -> tuple[int | None, bool | None]:
    if mark is None:
        return None, None
    reached = (number for number, accuracy in enumerate(curve, 1) if accuracy is not None and accuracy >= mark)
    first = next(reached, None)
    return first, first is None
