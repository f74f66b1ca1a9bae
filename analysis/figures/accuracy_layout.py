"""What the panels of the accuracy figure name, and how they are arranged: with labels beside them, or a key below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.curves import Panel
from analysis.figures.style import KEY_LINE, LEFT, RIGHT, Theme, key_columns

LABEL_GAP_PT = 12.0  # between the centres of two labels of 9 pt
MOST_LABELS, MOST_OTHERS = 22, 3  # labels beside a panel; dense networks of other budgets with a label each
HEIGHT = 4.2  # inches, of a panel
PLOT, FOOT, HEAD = 2.6, 0.62, 0.42  # inches, in a narrow figure: the axes, from there to the key, and above


def is_crowded(panel: Panel) -> bool:
    """Whether the panel has too many labels; if so, `figures/controls.py` draws its controls."""
    return len(_texts(panel)) > MOST_LABELS


def thinned(panel: Panel) -> Panel:
    """The panel, without its controls if it has too many labels."""
    if not is_crowded(panel):
        return panel
    return replace(panel, curves=tuple(replace(curve, controls=()) for curve in panel.curves))


def is_narrow(theme: Theme) -> bool:
    """Whether labels beside the panel would leave too little of it."""
    return theme.columns == 1


def stacked(figure: Figure, shown: Sequence[Panel], theme: Theme) -> list[Any]:
    """Panels one below the other, each with room for a key with all its labels."""
    width, keys = figure.get_figwidth(), [_key_height(panel, theme) for panel in shown] or [0.0]
    total = sum(HEAD + PLOT + FOOT + key for key in keys)
    figure.set_figheight(total)
    axes, top = [], total
    for key in keys:
        bottom = top - HEAD - PLOT
        axes.append(figure.add_axes((LEFT / width, bottom / total, 1 - (LEFT + RIGHT) / width, PLOT / total)))
        top = bottom - FOOT - key
    return axes


def _key_height(panel: Panel, theme: Theme) -> float:
    """Inches that the key of a narrow panel needs: a title, the labels, at most three markers."""
    return KEY_LINE * (1 + math.ceil((len(_texts(panel)) + 3) / columns_of_key(panel, theme)))


def columns_of_key(panel: Panel, theme: Theme) -> int:
    """How many entries of the key of a narrow panel fit side by side."""
    return key_columns([Line2D([], [], label=text) for text in _texts(panel)], theme.width)


def side_labelled(figure: Figure, shown: Sequence[Panel]) -> list[Any]:
    """Panels one below the other. The right margin fits the longest label: 5.6 pt per character of 9 pt, plus its
    line."""
    count = max(1, len(shown))
    width, height = figure.get_figwidth(), _height(shown) * count
    figure.set_figheight(height)
    axes = list(figure.subplots(count, 1, squeeze=False)[:, 0])
    longest = max((len(text) for panel in shown for text in _texts(panel)), default=0)
    right = min(0.4 * width, 0.25 + longest * 5.6 / 72)
    figure.subplots_adjust(
        left=0.62 / width, right=1 - right / width, bottom=1.0 / height, top=1 - 0.42 / height, hspace=0.42
    )
    return axes


def _height(shown: Sequence[Panel]) -> float:
    """Height of a panel in inches; more than usual if the labels, one below the other, need it."""
    most = max((len(_texts(panel)) for panel in shown), default=0)
    return max(HEIGHT, 1.42 + most * LABEL_GAP_PT / 72)


def _texts(panel: Panel) -> list[str]:
    return [
        panel.dense_label, margin_label(panel), *dict(other_labels(panel)),
        *(curve.label for curve in panel.curves),
        *(control.label for curve in panel.curves for control in curve.controls),
    ]  # fmt: skip


def other_labels(panel: Panel) -> list[tuple[str, float]]:
    """Label and height of the dense networks of other budgets; if there are many, they share one label."""
    if len(panel.others) <= MOST_OTHERS:
        return [(label, level.mean) for label, level in panel.others]
    heights = [level.mean for _, level in panel.others]
    return [(f"dense, {len(panel.others)} other budgets", sum(heights) / len(heights))]


def margin_label(panel: Panel) -> str:
    """The name of the line below which tickets no longer match."""
    return f"dense \u2212 {panel.margin_pp:g} pp (margin)"
