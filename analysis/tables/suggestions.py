"""What a search found: a row a suggestion, the front, and its figure. Pure; the study itself is read elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures.spacing import ticks
from analysis.figures.style import STYLE, THEMES, Theme, frame
from analysis.tables.schema import Row, spec_fields
from analysis.text import percent

SUGGESTIONS = "suggestions"
STATUSES = ("done", "stopped", "failed", "open")
MEASURED = ("valid_accuracy", "test_accuracy", "sparsity_pct")
NOT_SHARED = ("seed", "control")  # spec fields in which the trials of a suggestion differ


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return pa.field(
        name, kind, metadata={"unit": unit, "source": "study.db and trials.parquet", "description": description}
    )


SCHEMA = pa.schema(
    [
        _field("suggestion", pa.int64(), "number", "the study's number of it"),
        _field("status", pa.string(), "name", f"one of {', '.join(STATUSES)}; stopped: by successive halving"),
        _field("reason", pa.string(), "text", "why it failed"),
        _field("on_the_way_of", pa.int64(), "number", "the suggestion of which this is an earlier level; null: none"),
        _field("on_front", pa.bool_(), "true or false", "no other suggestion is better in every objective"),
        _field("n_seeds", pa.int64(), "seeds", "tickets that are done"),
        _field("objective_accuracy", pa.float64(), "fraction (0..1), or percentage points from dense",
               "what the sampler was told"),
        _field("valid_accuracy", pa.float64(), "fraction (0..1)", "mean of the tickets, last epoch, validation part"),
        _field("test_accuracy", pa.float64(), "fraction (0..1)",
               "the same on the test part, which had no say in the search"),
        _field("dense_test_accuracy", pa.float64(), "fraction (0..1)", "mean of their dense trials, test part"),
        _field("sparsity_pct", pa.float64(), "per cent (0..100)", "measured, mean of the tickets"),
        _field("epochs_alone", pa.int64(), "epochs", "of one ticket, trained alone"),
        *(field for field in spec_fields() if field.name not in NOT_SHARED),
        _field("trials", pa.list_(pa.string()), "names", "tickets and dense trials of the suggestion"),
    ],
    metadata={"table": SUGGESTIONS, "rows": "one row a suggestion of a search"},
)  # fmt: skip


def suggestion_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as the table `suggestions`, by number."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["suggestion"]), schema=SCHEMA)


def measured(trials: Sequence[Row]) -> dict[str, Any]:
    """What the trials of one suggestion came to; nulls where no ticket is done."""
    done = [row for row in trials if row["status"] == "done"]
    tickets = [row for row in done if row["control"] == "none"]
    dense = [row["test_accuracy"] for row in done if row["control"] == "dense"]
    return {
        "n_seeds": len(tickets),
        **{name: fmean(row[name] for row in tickets) if tickets else None for name in MEASURED},
        "dense_test_accuracy": fmean(dense) if dense else None,
    }


def pareto_figure(rows: Sequence[Row], theme: str = "light") -> Figure:
    """Validation accuracy (per cent) against weights remaining (per cent, log): every suggestion, and the front."""
    colours = THEMES[theme]
    done = [row for row in rows if row["status"] == "done" and row["valid_accuracy"] is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), facecolor=colours.background)
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        figure.subplots_adjust(left=0.09, right=0.97, bottom=0.2, top=0.9)
        _dress(axis, colours)
        if not done:
            axis.text(0.5, 0.5, "no suggestion is done yet", color=colours.muted, ha="center", transform=axis.transAxes)
            return figure
        _points(axis, [row for row in done if not row["on_front"]], colours.muted, "suggestion", hollow=True)
        front = sorted((row for row in done if row["on_front"]), key=_remaining)
        axis.step(
            [*map(_remaining, front)], [*map(_accuracy, front)], where="post", color=colours.series[0], linewidth=1.1
        )
        _points(axis, front, colours.series[0], "on the front", hollow=False)
        values = sorted({_remaining(row) for row in done}, reverse=True)
        axis.set_xscale("log")
        axis.set_xlim(values[0] * 1.15, values[-1] / 1.15)
        at = ticks(values, 0.03)
        axis.set_xticks(at, [percent(tick) for tick in at])
        axis.set_xticks([], minor=True)
        axis.legend(loc="upper left", bbox_to_anchor=(-0.01, -0.13), ncols=2, frameon=False, labelcolor=colours.muted)
    return figure


def _points(axis: Any, rows: Sequence[Row], colour: str, label: str, hollow: bool) -> None:
    axis.plot(
        [*map(_remaining, rows)], [*map(_accuracy, rows)], linestyle="none", marker="o", markersize=5.5,
        color=colour, markerfacecolor="none" if hollow else colour, alpha=0.7 if hollow else 1, label=label,
    )  # fmt: skip


def _remaining(row: Row) -> float:
    return 100 - float(row["sparsity_pct"])


def _accuracy(row: Row) -> float:
    return 100 * float(row["valid_accuracy"])


def _dress(axis: Any, theme: Theme) -> None:
    axis.set_facecolor("none")
    axis.set_title("accuracy against weights remaining", loc="left", color=theme.text, fontsize=10.5, fontweight="bold")
    axis.set_xlabel("weights remaining (%, log scale)", color=theme.text)
    axis.set_ylabel("validation accuracy (%), mean over seeds", color=theme.text)
    frame(axis, theme)
