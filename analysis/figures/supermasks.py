"""The figure of supermasks: accuracy of untrained networks under masks, against the weights that are left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    MOST_PANELS,
    REMAINING,
    STYLE,
    THEMES,
    Theme,
    canvas,
    colour_and_dashes,
    dress,
    remaining_axis,
)
from analysis.supermasks.words import WEIGHTS
from analysis.tables.schema import Row
from lth_trainable.spec.words import field_words

HEIGHT = 2.6  # inches, of a panel
ONE_SHOT, RANDOM = "one_shot", "random"


def supermask_figure(rows: Sequence[Row], theme: str = "light") -> Figure:
    """One panel for each network and treatment of its weights: means over seeds of the test accuracy (percent).

    Lines are masks of one shot, one line for each criterion; points are masks over rounds, hollow where the line of the
    criterion is dashed. The thin line is the accuracy of always answering the commonest class.
    """
    colours = THEMES[theme]
    names = [name for name in dict.fromkeys(row["criterion"] for row in rows) if name != RANDOM]
    style = {name: colour_and_dashes(index, colours) for index, name in enumerate(names)} | {
        RANDOM: (colours.text, ":")
    }
    panels: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        panels[row["dataset"], row["model"], row["weights"]].append(row)
    shown = dict(list(panels.items())[:MOST_PANELS])
    with mpl.rc_context(STYLE):
        figure, axes = canvas(len(shown), HEIGHT, _key(rows, style, colours), colours)
        for axis, ((dataset, model, weights), group) in zip(axes, shown.items(), strict=True):
            _draw(axis, group, style)
            if group[0]["majority_class_accuracy"] is not None:
                majority = 100 * group[0]["majority_class_accuracy"]
                axis.axhline(majority, color=colours.muted, linewidth=0.9, dashes=(5, 2))
            title = f"{dataset}, {field_words('model', model)}: {WEIGHTS[weights]}"
            dress(axis, title, REMAINING, "test accuracy (%)", colours)
            remaining_axis(axis, sorted({row["weights_left_pct"] for row in group}, reverse=True))
    return figure


def _draw(axis: Any, group: Sequence[Row], style: dict[str, tuple[str, Any]]) -> None:
    lines: dict[tuple[str, str], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in group:
        lines[row["criterion"], row["found"]][row["round"]].append(row)
    for (criterion, found), by_round in lines.items():
        points = sorted(
            (fmean(row["weights_left_pct"] for row in rows), 100 * fmean(row["test_accuracy"] for row in rows))
            for rows in by_round.values()
        )
        colour, dashes = style[criterion]
        looks: dict[str, Any] = {"linestyle": dashes, "linewidth": 1.5}
        if found != ONE_SHOT:  # where the line is dashed, its points are hollow
            looks = {"linestyle": "none", "marker": "o", "fillstyle": "full" if dashes == "-" else "none"}
        axis.plot(*zip(*points, strict=True), color=colour, markersize=4, **looks)


def _key(rows: Sequence[Row], style: dict[str, tuple[str, Any]], colours: Theme) -> list[Line2D]:
    key = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=1.5, label=name.replace("_", " "))
        for name, (colour, dashes) in style.items()
    ]
    if any(row["found"] != ONE_SHOT for row in rows):
        points = Line2D([], [], color=colours.muted, linestyle="none", marker="o", markersize=4, label="over rounds")
        key.append(points)
    return [*key, Line2D([], [], color=colours.muted, linewidth=0.9, dashes=(5, 2), label="commonest class")]
