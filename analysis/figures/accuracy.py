"""The main figure of a run: accuracy against weights remaining.

It follows the conventions of papers: a logarithmic axis from 100 % on the left to few weights on the right (Frankle &
Carbin, arXiv 1803.03635, figure 3), means over seeds with intervals, and the dense network as a band. Every curve is
labelled, so that nobody has to rely on colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.accuracy_layout import (
    FOOT,
    HEIGHT,
    LABEL_GAP_PT,
    MOST_OTHERS,
    PLOT,
    columns_of_key,
    is_narrow,
    margin_label,
    other_labels,
    side_labelled,
    stacked,
    thinned,
)
from analysis.figures.curves import Control, Curve, Panel, panels
from analysis.figures.differences import WORDS, marker
from analysis.figures.spacing import decades, extent, remaining, spread, ticks
from analysis.figures.style import (
    STYLE,
    Theme,
    colour_and_dashes,
    frame,
    theme_of,
    title_size,
)
from analysis.tables.parquet import Frames
from analysis.tables.schema import BEATS, MATCHES
from analysis.text import percent

DODGE, MOST_DODGE = 0.012, 0.045  # sideways shift of curves, as a fraction of the axis: intervals must not overlap


@dataclass(frozen=True, kw_only=True)
class Label:
    """The name of a line. y: its height at the right end. x: of the point it belongs to; None for a level line.
    dashes: of the line, for the key of a narrow figure."""

    y: float
    text: str
    colour: str
    x: float | None = None
    dashes: Any = "-"


@dataclass(frozen=True, kw_only=True)
class CurveStyle:
    """How one curve is drawn. shift: a factor on its x values, so that curves do not hide each other."""

    colour: str
    dashes: Any
    shift: float


_FROM_DENSE = (0, (3, 2))
_CONTROL, _MARGIN, _OTHER = (0, (1, 1.5)), (0, (1, 2)), (0, (6, 3))


def accuracy_figure(frames: Frames, theme: str = "light") -> Figure:
    """Endpoint (percent) against weights remaining (percent, log): one panel per dense baseline, one curve per ladder.

    Bars and band are two-sided 95 % t-intervals of the means over all finished seeds. The markers show the verdicts,
    which are paired by seed: filled for beats or matches, half filled for within the margin but lower, open for
    undecided, a cross for falls short. Controls are dotted; if there are too many, they get a figure of their own.
    Without finished tickets the figure says so.
    Raises `UserError` for an unknown theme.
    """
    colours, shown = theme_of(theme), [thinned(panel) for panel in frames.once(panels) if panel.curves]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(colours.width, HEIGHT), facecolor=colours.background)
        FigureCanvasAgg(figure)
        axes = stacked(figure, shown, colours) if is_narrow(colours) else side_labelled(figure, shown)
        if not shown:
            _say_nothing(axes[0], colours)
        for axis, panel in zip(axes, shown, strict=False):
            _draw(axis, panel, colours)
    return figure


def _draw(axis: Any, panel: Panel, theme: Theme) -> None:
    _dress(axis, panel, theme)
    labels = _draw_dense(axis, panel, theme)
    start = panel.dense.mean if panel.dense else None
    for index, curve in enumerate(panel.curves):
        style = _curve_style(index, len(panel.curves), panel, theme)
        labels.append(_draw_curve(axis, curve, style, start, theme))
        labels += [_draw_control(axis, control, style) for control in curve.controls]
    _limits(axis, panel)
    if is_narrow(theme):
        _full_key(axis, panel, labels, theme)
    else:
        _write_labels(axis, labels)
        _key(axis, panel, theme)


def _draw_dense(axis: Any, panel: Panel, theme: Theme) -> list[Label]:
    """Draw band and lines of the dense baselines; returns their labels."""
    labels: list[Label] = []
    if panel.dense:
        mean, floor = panel.dense.mean, panel.dense.mean - panel.margin_pp
        if panel.dense.low is not None:
            axis.axhspan(panel.dense.low, panel.dense.high, color=theme.muted, alpha=0.16, linewidth=0)
        axis.axhline(mean, color=theme.text, linewidth=1.1)
        axis.plot([100], [mean], color=theme.text, marker="s", markersize=5.5, zorder=5)
        axis.axhline(floor, color=theme.muted, linewidth=0.9, linestyle=_MARGIN)
        labels += [
            Label(y=mean, text=panel.dense_label, colour=theme.text),
            Label(y=floor, text=margin_label(panel), colour=theme.muted, dashes=_MARGIN),
        ]
    width = 1.1 if len(panel.others) <= MOST_OTHERS else 0.5
    for _, level in panel.others:
        axis.axhline(level.mean, color=theme.muted, linewidth=width, linestyle=_OTHER)
    others = other_labels(panel)
    return [*labels, *(Label(y=height, text=text, colour=theme.muted, dashes=_OTHER) for text, height in others)]


def _curve_style(index: int, count: int, panel: Panel, theme: Theme) -> CurveStyle:
    """Colour and dashes of a curve, and the factor that moves it sideways on the log axis."""
    step = min(DODGE, MOST_DODGE / count)
    colour, dashes = colour_and_dashes(index, theme)
    return CurveStyle(
        colour=colour,
        dashes=dashes,
        shift=10 ** (((count - 1) / 2 - index) * step * decades(panel)),
    )


def _draw_curve(axis: Any, curve: Curve, style: CurveStyle, start: float | None, theme: Theme) -> Label:
    """Draw the curve, starting from the dense network at 100 %; returns its label."""
    x = [point.remaining_pct * style.shift for point in curve.points]
    y = [point.level.mean for point in curve.points]
    if start is not None:
        axis.plot([100, x[0]], [start, y[0]], color=style.colour, linewidth=1, linestyle=_FROM_DENSE, alpha=0.6)
    axis.plot(x, y, color=style.colour, linewidth=1.6, linestyle=style.dashes, zorder=3)
    for at, point in zip(x, curve.points, strict=True):
        if point.level.low is not None:
            axis.vlines(at, point.level.low, point.level.high, color=style.colour, linewidth=1.1, zorder=3)
        axis.plot([at], [point.level.mean], color=style.colour, zorder=4, **marker(point.verdict, style.colour, theme))
    return Label(y=y[-1], text=curve.label, colour=style.colour, x=x[-1], dashes=style.dashes)


def _draw_control(axis: Any, control: Control, style: CurveStyle) -> Label:
    """Draw a thin dotted line in the colour of its tickets, without intervals: the claims compare the two by seed."""
    x = [at * style.shift for at, _ in control.points]
    y = [level.mean for _, level in control.points]
    axis.plot(x, y, color=style.colour, linewidth=0.9, linestyle=_CONTROL, alpha=0.75, marker=".", markersize=3.5)
    return Label(y=y[-1], text=control.label, colour=style.colour, x=x[-1], dashes=_CONTROL)


def _dress(axis: Any, panel: Panel, theme: Theme) -> None:
    axis.set_facecolor("none")
    axis.set_title(
        panel.title,
        loc="left",
        color=theme.text,
        fontsize=title_size(axis, panel.title, 10.5),
        fontweight="bold",
        pad=9,
    )
    axis.set_xlabel("weights remaining (%, log scale)", color=theme.text)
    axis.set_ylabel(f"{panel.endpoint.replace('_', ' ')} (%)", color=theme.text)
    frame(axis, theme)


def _limits(axis: Any, panel: Panel) -> None:
    length, values = decades(panel), remaining(panel)
    axis.set_xscale("log")
    axis.set_xlim(100 * 10 ** (0.02 * length), values[-1] / 10 ** (0.05 * length))
    at = ticks([100.0, *values], 0.055 * length)
    axis.set_xticks(at, [percent(tick) for tick in at])
    axis.set_xticks([], minor=True)
    low, high = extent(panel)
    pad = 0.06 * max(high - low, 0.5)
    axis.set_ylim(low - pad, high + pad)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))


def _write_labels(axis: Any, labels: Sequence[Label]) -> None:
    """Write the labels to the right of the axis without overlap, each joined to its point by a thin line."""
    height = axis.get_position().height * axis.figure.get_figheight() * 72
    low, high = axis.get_ylim()
    heights = spread([(label.y - low) / (high - low) * height for label in labels], LABEL_GAP_PT, (0.0, height))
    transform = axis.get_yaxis_transform()
    for label, at in zip(labels, heights, strict=True):
        y, colour, x = label.y, label.colour, label.x
        label_y = low + at / height * (high - low)
        if x is not None:
            x_axis = axis.transAxes.inverted().transform(axis.transData.transform((x, y)))[0]
            axis.plot([x_axis, 1.0], [y, y], color=colour, linewidth=0.6, alpha=0.55, transform=transform, zorder=2)
        axis.plot(
            [1.0, 1.022], [y, label_y], color=colour, linewidth=0.6, alpha=0.7, transform=transform, clip_on=False
        )
        axis.text(1.028, label_y, label.text, color=colour, transform=transform, va="center", ha="left", clip_on=False)


def _key(axis: Any, panel: Panel, theme: Theme) -> None:
    """Explain the markers that occur, below the axis."""
    _legend(axis, panel, _marker_handles(panel, theme), theme, at=-0.155, columns=3)


def _full_key(axis: Any, panel: Panel, labels: Sequence[Label], theme: Theme) -> None:
    """Name every line and explain the markers that occur, below the axis."""
    handles = [Line2D([], [], color=label.colour, linestyle=label.dashes, label=label.text) for label in labels]
    columns = columns_of_key(panel, theme)
    _legend(axis, panel, [*handles, *_marker_handles(panel, theme)], theme, at=-FOOT / PLOT, columns=columns)


def _marker_handles(panel: Panel, theme: Theme) -> list[Line2D]:
    found = {point.verdict for curve in panel.curves for point in curve.points}
    found = {MATCHES if verdict == BEATS else verdict for verdict in found}
    return [
        Line2D([], [], color=theme.muted, label=text, **marker(verdict, theme.muted, theme))
        for verdict, text in WORDS.items()
        if verdict in found
    ]


def _legend(axis: Any, panel: Panel, handles: Sequence[Line2D], theme: Theme, at: float, columns: int) -> None:
    """at: height of its upper edge, as a fraction of the axes."""
    axis.legend(
        handles=handles, title=_seeds(panel), loc="upper left",
        bbox_to_anchor=(-0.012, at), ncols=columns, frameon=False, labelcolor=theme.muted, alignment="left",
        handletextpad=0.3, columnspacing=1.6, borderpad=0, borderaxespad=0.4, fontsize=8.5, title_fontsize=8.5,
    ).get_title().set_color(theme.muted)  # fmt: skip


def _seeds(panel: Panel) -> str:
    counts = [point.level.n for curve in panel.curves for point in curve.points]
    least, most = min(counts), max(counts)
    if most == 1:
        return "one seed, so no intervals"
    return f"mean and 95 % t-interval over {least if least == most else f'{least} to {most}'} seeds"


def _say_nothing(axis: Any, theme: Theme) -> None:
    axis.set_axis_off()
    axis.text(0.5, 0.5, "no finished tickets yet", color=theme.muted, ha="center", va="center", fontsize=11)
