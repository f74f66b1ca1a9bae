"""Overlap of masks: intersection over union of tickets that differ in one thing, compared with chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from analysis.figures.curves import ladder_labels
from analysis.figures.spacing import aside
from analysis.figures.style import REMAINING, STYLE, canvas, colour_and_dashes, dress, line, remaining_axis, theme_of
from analysis.labels import both
from analysis.tables.parquet import Frames

TITLES = {"seed": "between seeds", "rewind": "between rewind points", "criterion": "between criteria"}
HEIGHT, CHANCE = 2.3, (0, (1, 1.6))
MOST_SERIES = 7  # in one panel: as many as there are colours
Points = dict[float, list[tuple[float, float]]]  # weights remaining (percent) -> IoU and chance IoU of each pair


@dataclass(frozen=True, kw_only=True)
class Series:
    """Pairs of one kind. x: weights remaining (percent). iou, chance: means at each x. every: (x, IoU) of each pair."""

    label: str
    x: tuple[float, ...]
    iou: tuple[float, ...]
    chance: tuple[float, ...]
    every: tuple[tuple[float, float], ...]


def overlap_series(frames: Frames) -> dict[str, list[Series]]:
    """What the tickets differ in -> one series per pair of ladders, over all layers, in the order of the verdicts.

    Nested pairs are left out: their masks overlap by construction."""
    trials = {row["trial"]: row for row in frames.rows("trials")}
    labels = ladder_labels(frames)
    order = {label: i for i, label in enumerate(labels.values())}
    found: dict[str, dict[tuple[str, ...], Points]] = {}
    for row in (row for row in frames.rows("overlaps") if row["layer"] is None):
        if row["iou"] is None or row["nested"] or not {row["trial_a"], row["trial_b"]} <= trials.keys():
            continue
        names = dict.fromkeys(labels.get(ladder := trials[row[t]]["ladder"], ladder) for t in ("trial_a", "trial_b"))
        at = 100 - trials[row["trial_a"]]["target_sparsity_pct"]  # both tickets of a pair have the same target
        points = found.setdefault(row["between"], {}).setdefault(tuple(names), {})
        points.setdefault(at, []).append((row["iou"], row["chance_iou"]))
    return {
        between: [
            _series(both(names), by_names[names])
            for names in sorted(by_names, key=lambda names: [order.get(name, len(order)) for name in names])
        ]
        for between, by_names in found.items()
    }


def _series(label: str, points: Points) -> Series:
    x = sorted(points, reverse=True)
    return Series(
        label=label,
        x=tuple(x),
        iou=tuple(_mean([iou for iou, _ in points[at]]) for at in x),
        chance=tuple(_mean([chance for _, chance in points[at]]) for at in x),
        every=tuple((at, iou) for at in x for iou, _ in points[at]),
    )


def overlap_figure(frames: Frames, theme: str = "light") -> Figure | None:
    """One panel for each thing that tickets differ in: IoU of their masks against weights remaining.

    Faint dots are pairs, the line is their mean, the dotted line is what chance gives at the same layer densities. None
    if no masks were compared. Raises `UserError` for an unknown theme.
    """
    colours, found = theme_of(theme), frames.once(overlap_series)
    if not found:
        return None
    found = {between: group[:MOST_SERIES] for between, group in found.items()}
    labels = list(dict.fromkeys(series.label for group in found.values() for series in group))
    styles = {label: colour_and_dashes(i, colours) for i, label in enumerate(labels)}
    with mpl.rc_context(STYLE):
        key = [
            line(colour, label, marker="o", markersize=4.5, linestyle=dashes)
            for label, (colour, dashes) in styles.items()
        ]
        key.append(line(colours.muted, "by chance", linestyle=CHANCE, linewidth=1.3))
        figure, axes = canvas(len(found), HEIGHT, key, colours)
        for axis, (between, group) in zip(axes, found.items(), strict=True):
            dress(axis, TITLES.get(between, between), REMAINING, "overlap of masks (IoU)", colours)
            length = max(math.log10(group[0].x[0] / min(at for series in group for at in series.x)), 1 / 3)
            for index, series in enumerate(group):
                _draw(axis, series, *styles[series.label], aside(index, len(group), length))
            remaining_axis(axis, [at for series in group for at in series.x])
            axis.set_ylim(0, 1)
    return figure


def _draw(axis: Any, series: Series, colour: str, dashes: Any, shift: float) -> None:
    x, pairs = [at * shift for at in series.x], [(at * shift, iou) for at, iou in series.every]
    axis.plot(*zip(*pairs, strict=True), color=colour, alpha=0.25, linestyle="none", marker="o", markersize=3)
    axis.plot(x, series.iou, color=colour, linestyle=dashes, linewidth=1.5, marker="o", markersize=4.5)
    marker = {"marker": "_", "markersize": 9} if len(series.x) == 1 else {}
    axis.plot(x, series.chance, color=colour, linewidth=1.2, linestyle=CHANCE, zorder=4, **marker)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
