"""The run's curves beside published figures: one panel for each quantity, against weights remaining."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import (
    MOST_PANELS,
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
from analysis.labels import dense_label, short_labels
from analysis.published.arms import DENSE, Ladder, ladders_for
from analysis.published.estimates import estimate_at
from analysis.published.points import (
    ALONE,
    AT_END,
    CHANGE,
    DIFFERENCE,
    FALLS_BELOW,
    LESS_THAN,
    MORE_THAN,
    SUPERMASK,
    Point,
)
from analysis.published.untrained import curve_of, series_for
from analysis.stats.equivalence import Estimate
from analysis.tables.parquet import Frames
from analysis.tables.published_schema import ABSENT
from analysis.tables.schema import Row
from analysis.verdicts.baselines import Candidate, find_candidates

HEIGHT = 2.5
_OF_ROW = {"value": "published", "n": "n_published"}
_MARKS = {MORE_THAN: "^", LESS_THAN: "v"}
Series = tuple[str, str]  # arm, ladder


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Published figures of one quantity. curves: of the run, weights left (percent) and estimate at each level."""

    point: Point
    rows: tuple[Row, ...]
    curves: dict[Series, tuple[tuple[float, Estimate], ...]]


def published_figure(frames: Frames, theme: str = "light") -> Figure | None:
    """The run's values as lines with their intervals, the published figures as hollow marks with the margin.

    None if the run is held against nothing that it has. Raises `UserError` for an unknown theme.
    """
    colours, found = theme_of(theme), frames.once(panels)
    if not found:
        return None
    series = list(dict.fromkeys(name for panel in found for name in panel.curves))
    styles = {name: colour_and_dashes(i, colours) for i, name in enumerate(series)}
    with mpl.rc_context(STYLE):
        key = [
            line(styles[name][0], label, marker="o", markersize=4.5, linestyle=styles[name][1])
            for name, label in _labels(series).items()
        ]
        key += [line(colours.muted, words, **style) for words, style in _marks_of(found, colours)]
        figure, axes = canvas(len(found), HEIGHT, key, colours)
        for axis, panel in zip(axes, found, strict=True):
            dress(axis, _title(panel.point), REMAINING, _label(panel.point), colours)
            if panel.point.quantity == DIFFERENCE:
                axis.axhline(0, color=colours.muted, linewidth=0.9, zorder=1)
            for name, curve in panel.curves.items():
                _draw_curve(axis, curve, *styles[name])
            for row in panel.rows:
                _draw_published(axis, row, styles[row["arm"], row["ladder"]][0], colours)
            lefts = [left for curve in panel.curves.values() for left, _ in curve]
            at = [row["weights_left_pct"] for row in panel.rows if row["weights_left_pct"] is not None]
            remaining_axis(axis, [*lefts, *at])
            axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    return figure


def panels(frames: Frames) -> list[Panel]:
    """A panel for each quantity, moment and other side, in the order of the claims; at most `MOST_PANELS`."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in frames.rows("published"):
        if row["result"] != ABSENT:
            quantity = DIFFERENCE if row["quantity"] == FALLS_BELOW else row["quantity"]
            groups.setdefault((quantity, row["at"], row["against"], row["network"], row["data"]), []).append(row)
    found = []
    for (quantity, *_), rows in groups.items():
        curves = {
            (row["arm"], row["ladder"]): _curve(replace(_point(row), quantity=quantity), row, frames) for row in rows
        }
        shown = {name: curve for name, curve in curves.items() if curve}
        kept = tuple(row for row in rows if (row["arm"], row["ladder"]) in shown)
        if shown:
            found.append(Panel(point=replace(_point(rows[0]), quantity=quantity), rows=kept, curves=shown))
    return found[:MOST_PANELS]


def _point(row: Row) -> Point:
    return Point(**{field.name: row[_OF_ROW.get(field.name, field.name)] for field in fields(Point)})


def _curve(point: Point, row: Row, frames: Frames) -> tuple[tuple[float, Estimate], ...]:
    """What the run has at each level of the row's ladder, or at each round of a series of supermasks."""
    if point.quantity == SUPERMASK:
        found = next((one for one in series_for(point, frames.rows("supermasks")) if one.name == row["ladder"]), None)
        return curve_of(found, row["confidence"]) if found else ()
    ladder = next(_ladders(point, row, frames), None)
    estimates = [
        (level.left_pct, estimate_at(point, level, row["confidence"])) for level in (ladder.levels if ladder else ())
    ]
    return tuple((left, each.estimate) for left, each in estimates if each.estimate is not None)


def _ladders(point: Point, row: Row, frames: Frames) -> Iterator[Ladder]:
    """The row's ladder: as if learning rates were not tuned, or else, if it has no dense networks then, as tuned."""
    for candidates in (_candidates, _tuned_candidates):
        for ladder in ladders_for(point, frames.once(candidates)):
            if ladder.name == row["ladder"] and any(level.side(DENSE) for level in ladder.levels):
                yield ladder


def _candidates(frames: Frames) -> list[Candidate]:
    return find_candidates(frames.rows("trials"))


def _tuned_candidates(frames: Frames) -> list[Candidate]:
    return find_candidates(frames.rows("trials"), tuned=True)


def _draw_curve(axis: Any, curve: Sequence[tuple[float, Estimate]], colour: str, dashes: Any) -> None:
    lefts, values = [left for left, _ in curve], [found.mean for _, found in curve]
    axis.plot(lefts, values, color=colour, linestyle=dashes, linewidth=1.4, marker="o", markersize=3.5, zorder=2)
    for left, found in curve:
        if found.low is not None and found.high is not None:
            axis.vlines(left, found.low, found.high, color=colour, linewidth=1, zorder=2)


def _draw_published(axis: Any, row: Row, colour: str, theme: Theme) -> None:
    """The mark of a published figure, with the margin as a grey bar; a line if the paper names no weights left."""
    hollow = {
        "linestyle": "none", "markersize": 7.5, "markerfacecolor": theme.background, "markeredgecolor": colour,
        "markeredgewidth": 1.5, "zorder": 4,
    }  # fmt: skip
    value, margin = row["published"], row["margin"]
    if row["quantity"] == FALLS_BELOW:
        axis.plot([value], [0.0], marker="s", **hollow)
    elif row["weights_left_pct"] is None:
        axis.axhspan(value - margin, value + margin, color=colour, alpha=0.12, linewidth=0, zorder=0)
        axis.axhline(value, color=colour, linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
    else:
        left = row["weights_left_pct"]
        low = value if row["relation"] == LESS_THAN else value - margin
        high = value if row["relation"] == MORE_THAN else value + margin
        axis.vlines(left, low, high, color=theme.muted, linewidth=3.5, alpha=0.45, zorder=3)
        axis.plot([left], [value], marker=_MARKS.get(row["relation"], "D"), **hollow)


def _marks_of(found: Sequence[Panel], theme: Theme) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of the key for the kinds of published figures that are drawn."""
    rows = [row for panel in found for row in panel.rows]
    hollow = {"linestyle": "none", "markersize": 6.5, "markerfacecolor": theme.background}
    falls = [row for row in rows if row["quantity"] == FALLS_BELOW]
    points = [row for row in rows if row["quantity"] != FALLS_BELOW and row["weights_left_pct"] is not None]
    if any(row["relation"] not in _MARKS for row in points):
        yield "published, with the margin", {**hollow, "marker": "D"}
    for relation, words in ((MORE_THAN, "published: more than"), (LESS_THAN, "published: less than")):
        if any(row["relation"] == relation for row in points):
            yield words, {**hollow, "marker": _MARKS[relation]}
    if falls:
        yield "published: below from here on", {**hollow, "marker": "s"}
    if len(points) + len(falls) < len(rows):
        yield "published, at any weights left", {"linestyle": (0, (1, 2))}


def _labels(series: Sequence[Series]) -> dict[Series, str]:
    """Each arm in words, with its ladder if there are several; dense networks have none of their own."""
    ladders, arms = short_labels([ladder for _, ladder in series]), [arm for arm, _ in series]
    alone = {arm for arm in arms if arm.partition("-")[0] == DENSE and arms.count(arm) == 1}
    with_ladder = {name: len(ladders) > 1 and name[0] not in alone for name in series}
    return {
        (arm, ladder): _words(arm) + (f", {ladders[ladder]}" if with_ladder[arm, ladder] else "")
        for arm, ladder in series
    }


def _words(arm: str) -> str:
    return "tickets" if arm == "ticket" else dense_label(arm)


def _title(point: Point) -> str:
    if point.quantity in ALONE:
        return f"{'untrained, ' if point.quantity == SUPERMASK else ''}accuracy on {point.data}"
    return f"{'accuracy' if point.quantity == DIFFERENCE else 'how soon'}, against {_words(point.against or '')}"


def _label(point: Point) -> str:
    where = "" if point.at in (AT_END, None) else " at early stop"
    if point.quantity in ALONE:
        return f"test accuracy{where} (%)"
    if point.quantity == DIFFERENCE:
        return f"difference{where} (pp)"
    return "early stop, change (%)" if point.quantity == CHANGE else "early stop, ratio of iterations"
