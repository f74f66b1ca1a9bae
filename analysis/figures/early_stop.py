"""Early stopping: how fast tickets learn, and how well they generalise where the validation loss is lowest.

Like figure 3 of Frankle & Carbin (arXiv 1803.03635): the iteration of early stopping, and the test accuracy at that
iteration, against weights remaining.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.curves import Ladder, Level, ladders, level_of
from analysis.figures.spacing import aside
from analysis.figures.style import (
    REMAINING,
    STYLE,
    Theme,
    canvas,
    colour_and_dashes,
    dress,
    line,
    remaining_axis,
    theme_of,
)
from analysis.tables.clocks import FROM_INIT
from analysis.tables.parquet import Frames
from analysis.tables.schema import Row

HEIGHT = 2.5
_NAMES = (FROM_INIT, "early_stop_test_accuracy")


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The early stop of a group. If any seed is censored, `iteration` is a lower bound without an interval."""

    iteration: Level
    accuracy: Level
    n_censored: int


def stops(trials: Sequence[Row]) -> dict[str, Stop]:
    """The early stop of each group (iterations from the initialisation, test accuracy in percent)."""
    members: dict[str, list[Row]] = {}
    for row in trials:
        if row["status"] == "done" and all(row[name] is not None for name in _NAMES):
            members.setdefault(row["group"], []).append(row)
    return {group: _stop(rows) for group, rows in members.items()}


def _stop(rows: Sequence[Row]) -> Stop:
    iterations = [float(row[FROM_INIT]) for row in rows]
    censored = sum(bool(row["early_stop_censored"]) for row in rows)
    bound = Level(mean=fmean(iterations), low=None, high=None, n=len(rows))
    return Stop(
        iteration=bound if censored else level_of(iterations),
        accuracy=level_of([100 * row["early_stop_test_accuracy"] for row in rows]),
        n_censored=censored,
    )


def early_stop_figure(frames: Frames, theme: str = "light") -> Figure | None:
    """Two panels against weights remaining: iteration of the early stop, and test accuracy there (percent).

    A hollow triangle means that the validation loss of at least one seed was still falling at the end, so the mean is a
    lower bound. None if no ticket has an early stop. Raises `UserError` for an unknown theme.
    """
    colours, found = theme_of(theme), stops(frames.rows("trials"))
    shown = [ladder for ladder in frames.once(ladders) if any(rung.group in found for rung in ladder.rungs)]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        styles = [colour_and_dashes(i, colours) for i in range(len(shown))]
        key = [
            line(colour, ladder.label, marker="o", markersize=4.5, linestyle=dashes)
            for (colour, dashes), ladder in zip(styles, shown, strict=True)
        ]
        if any(stop.n_censored for stop in found.values()):
            marker = {"linestyle": "none", "marker": "^", "markersize": 5.5, "markerfacecolor": "none"}
            key.append(line(colours.muted, "lower bound: censored seeds", **marker))
        figure, axes = canvas(2, HEIGHT, key, colours)
        dress(axes[0], "how soon", REMAINING, "early stop (iterations from init)", colours)
        dress(axes[1], "how well", REMAINING, "test accuracy at early stop (%)", colours)
        values = [rung.remaining_pct for ladder in shown for rung in ladder.rungs if rung.group in found]
        length = max(math.log10(100 / min(values)), 1 / 3)
        for index, (style, ladder) in enumerate(zip(styles, shown, strict=True)):
            _draw_ladder(axes, ladder, found, style, colours, aside(index, len(shown), length))
        for axis in axes:
            remaining_axis(axis, [100.0, *values])
            axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    return figure


def _draw_ladder(
    axes: Sequence[Any], ladder: Ladder, found: Mapping[str, Stop], style: tuple[str, Any], theme: Theme, shift: float
) -> None:
    colour, dashes = style
    points = [(rung.remaining_pct, found[rung.group]) for rung in ladder.rungs if rung.group in found]
    if ladder.dense_group is not None and ladder.dense_group in found:
        points.insert(0, (100.0, found[ladder.dense_group]))
    x = [at * shift for at, _ in points]
    levels = [stop.iteration for _, stop in points], [stop.accuracy for _, stop in points]
    for axis, column, is_time in zip(axes, levels, (True, False), strict=True):
        axis.plot(x, [level.mean for level in column], color=colour, linestyle=dashes, linewidth=1.4, zorder=2)
        for at, level, (_, stop) in zip(x, column, points, strict=True):
            if level.low is not None:
                axis.vlines(at, level.low, level.high, color=colour, linewidth=1)
            is_bound = is_time and stop.n_censored > 0
            axis.plot(
                [at], [level.mean], color=colour, linestyle="none", marker="^" if is_bound else "o",
                markersize=6 if is_bound else 4.5, markerfacecolor=theme.background if is_bound else colour, zorder=3,
            )  # fmt: skip
