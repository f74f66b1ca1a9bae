"""The figure of a search: accuracy against weights remaining, every suggestion and the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures.spacing import ticks
from analysis.figures.style import STYLE, THEMES, Theme, frame
from analysis.tables.schema import Row
from analysis.text import percent

HEIGHT = 4.2  # inches


def pareto_figure(rows: Sequence[Row], theme: str = "light") -> Figure:
    """Validation accuracy (percent) against weights remaining (percent, log): all suggestions, and the Pareto front."""
    colours = THEMES[theme]
    done = [row for row in rows if row["status"] == "done" and row["valid_accuracy"] is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(colours.width, HEIGHT), facecolor=colours.background)
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        figure.subplots_adjust(left=0.65 / colours.width, right=1 - 0.2 / colours.width, bottom=0.2, top=0.9)
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
