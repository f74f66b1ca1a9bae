"""The table of a search: one row for each suggestion. Pure; the study itself is read elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pyarrow as pa

from analysis.tables.schema import Row, spec_fields

SUGGESTIONS = "suggestions"
DIVERGED = "diverged"
STATUSES = ("done", "stopped", DIVERGED, "failed", "open")
MEASURED = ("valid_accuracy", "test_accuracy", "sparsity_pct")
NOT_SHARED = ("seed", "control")  # spec fields in which the trials of a suggestion differ


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return pa.field(
        name, kind, metadata={"unit": unit, "source": "study.db and trials.parquet", "description": description}
    )


SCHEMA = pa.schema(
    [
        _field("suggestion", pa.int64(), "number", "its number in the study"),
        _field("status", pa.string(), "name", f"one of {', '.join(STATUSES)}; stopped: by successive halving; "
               "diverged: the loss of a ticket was not finite"),
        _field("reason", pa.string(), "text", "why it failed or diverged"),
        _field("on_the_way_of", pa.int64(), "number", "the suggestion of which this is an earlier level; null: none"),
        _field("on_front", pa.bool_(), "true or false", "no other suggestion is better in every objective"),
        _field("n_seeds", pa.int64(), "seeds", "tickets that are done"),
        _field("objective_accuracy", pa.float64(), "fraction (0..1), or percentage points from dense",
               "what the sampler was given"),
        _field("valid_accuracy", pa.float64(), "fraction (0..1)", "mean of the tickets, last epoch, validation split"),
        _field("test_accuracy", pa.float64(), "fraction (0..1)",
               "the same on the test split, which the search never used"),
        _field("dense_test_accuracy", pa.float64(), "fraction (0..1)", "mean of their dense trials, test split"),
        _field("sparsity_pct", pa.float64(), "per cent (0..100)", "measured, mean of the tickets"),
        _field("epochs_alone", pa.int64(), "epochs", "of one ticket, if trained alone"),
        *(field for field in spec_fields() if field.name not in NOT_SHARED),
        _field("trials", pa.list_(pa.string()), "names", "tickets and dense trials of the suggestion"),
    ],
    metadata={"table": SUGGESTIONS, "rows": "one row a suggestion of a search"},
)  # fmt: skip


def suggestion_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as the table `suggestions`, sorted by number."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["suggestion"]), schema=SCHEMA)


def measured(trials: Sequence[Row]) -> dict[str, Any]:
    """Means over the trials of one suggestion; nulls if no ticket is done."""
    done = [row for row in trials if row["status"] == "done"]
    tickets = [row for row in done if row["control"] == "none"]
    dense = [row["test_accuracy"] for row in done if row["control"] == "dense"]
    return {
        "n_seeds": len(tickets),
        **{name: fmean(row[name] for row in tickets) if tickets else None for name in MEASURED},
        "dense_test_accuracy": fmean(dense) if dense else None,
    }


def diverged(trials: Sequence[Row], with_dense: bool) -> list[str]:
    """Names of the trials of one suggestion that diverged: of its tickets, and if wanted of its dense trials too."""
    counted = ("none", "dense") if with_dense else ("none",)
    return [row["trial"] for row in trials if row["status"] == DIVERGED and row["control"] in counted]
