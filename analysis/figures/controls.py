"""Tickets and their controls, one panel per ladder, for runs with too many controls for the accuracy figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.accuracy_layout import is_crowded
from analysis.figures.curves import Curve, Level, Panel, panels
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
from analysis.tables.parquet import Frames

HEIGHT, BAND = 2.2, 0.16  # inches; opacity of the dense interval


def controls_figure(frames: Frames, theme: str = "light") -> Figure | None:
    """Endpoint (percent) against weights remaining: the tickets of each ladder and their controls.

    None if the accuracy figure shows the controls. Raises `UserError` for an unknown theme.
    """
    colours, crowded = theme_of(theme), [panel for panel in frames.once(panels) if is_crowded(panel)]
    shown = [(panel, curve) for panel in crowded for curve in panel.curves if curve.controls][:MOST_PANELS]
    if not shown:
        return None
    kinds = dict.fromkeys(control.label for _, curve in shown for control in curve.controls)
    palette = {kind: colour_and_dashes(i, colours) for i, kind in enumerate(kinds)}
    with mpl.rc_context(STYLE):
        key = [
            line(colours.text, "tickets", marker="o", markersize=4.5),
            *(
                line(colour, kind, linestyle=dashes, marker=".", markersize=5)
                for kind, (colour, dashes) in palette.items()
            ),
            line(colours.muted, "dense", linewidth=1.1),
        ]
        figure, axes = canvas(len(shown), HEIGHT, key, colours)
        for axis, (panel, curve) in zip(axes, shown, strict=True):
            dress(axis, curve.label, REMAINING, f"{panel.endpoint.replace('_', ' ')} (%)", colours)
            _draw(axis, panel, curve, palette, colours)
    return figure


def _draw(axis: Any, panel: Panel, curve: Curve, palette: Mapping[str, tuple[str, Any]], theme: Theme) -> None:
    """One panel. palette: colour and line style by the name of the control."""
    if panel.dense:
        _draw_dense(axis, panel.dense, theme)
    for control in curve.controls:
        x, y = [at for at, _ in control.points], [level.mean for _, level in control.points]
        colour, dashes = palette[control.label]
        axis.plot(x, y, color=colour, linestyle=dashes, linewidth=1.2, marker=".", markersize=5)
    x, y = [point.remaining_pct for point in curve.points], [point.level.mean for point in curve.points]
    axis.plot(x, y, color=theme.text, linewidth=1.5, marker="o", markersize=4.5)
    for point in curve.points:
        if point.level.low is not None:
            axis.vlines(point.remaining_pct, point.level.low, point.level.high, color=theme.text, linewidth=1)
    remaining_axis(axis, x)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _draw_dense(axis: Any, dense: Level, theme: Theme) -> None:
    if dense.low is not None:
        axis.axhspan(dense.low, dense.high, color=theme.muted, alpha=BAND, linewidth=0)
    axis.axhline(dense.mean, color=theme.muted, linewidth=1.1)
