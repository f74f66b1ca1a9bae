"""What the figures of a run share: canvas of panels, dress of an axis, the axis of weights remaining, key below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.accuracy import THEMES, Theme, frame
from analysis.figures.spacing import ticks
from analysis.text import percent
from lth_trainable.errors import unknown_name

WIDTH, COLUMNS, MOST_PANELS = 7.2, 2, 8  # inches: text width of a two-column page; panels beside each other and in all
LEFT, RIGHT, GAP, TOP, AXIS, KEY_LINE = 0.62, 0.15, 0.62, 0.38, 0.52, 0.19  # inches; AXIS: tick and axis labels below
LETTER_PT, HANDLE_PT = 5.0, 38.0  # width of a letter of 8.5 pt, and of what stands before it in the key


def theme_of(name: str) -> Theme:
    """Raises `UserError` for an unknown one."""
    if name not in THEMES:
        raise unknown_name("theme", name, THEMES)
    return THEMES[name]


def canvas(count: int, height: float, key: Sequence[Line2D], theme: Theme) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels, each `height` inches high, at most two beside each other, with its key below."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    across = key_columns(key)
    foot = 0.1 + KEY_LINE * math.ceil(len(key) / across) if key else 0.0
    total = rows * (TOP + height + AXIS) + foot
    figure = Figure(figsize=(WIDTH, total), facecolor=theme.background)
    FigureCanvasAgg(figure)
    wide = (WIDTH - LEFT - RIGHT - GAP * (columns - 1)) / columns
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        bottom = total - (row + 1) * (TOP + height + AXIS) + AXIS
        place = (LEFT + column * (wide + GAP)) / WIDTH, bottom / total, wide / WIDTH, height / total
        axes.append(figure.add_axes(place))
    if key:
        figure.legend(
            handles=list(key), loc="lower left", bbox_to_anchor=((LEFT - 0.08) / WIDTH, 0.06 / total), ncols=across,
            frameon=False, labelcolor=theme.muted, fontsize=8.5, borderpad=0, borderaxespad=0, handlelength=1.9,
            handletextpad=0.5, columnspacing=1.6,
        )  # fmt: skip
    return figure, axes


def key_columns(key: Sequence[Line2D]) -> int:
    """As many as fit beside each other."""
    longest = max((len(str(handle.get_label())) for handle in key), default=0)
    return max(1, int((WIDTH - LEFT - RIGHT) * 72 / (HANDLE_PT + LETTER_PT * longest)))


def dress(axis: Any, title: str, x: str, y: str, theme: Theme) -> None:
    axis.set_facecolor("none")
    axis.set_title(title, loc="left", color=theme.text, fontsize=9.5, fontweight="bold", pad=7)
    axis.set_xlabel(x, color=theme.text)
    axis.set_ylabel(y, color=theme.text)
    frame(axis, theme)


def remaining_axis(axis: Any, values: Iterable[float]) -> None:
    """Weights remaining (per cent), logarithmic, from many on the left to few on the right, ticks at the values."""
    at = sorted(set(values), reverse=True)
    length = max(math.log10(at[0] / at[-1]), 0.3)
    axis.set_xscale("log")
    axis.set_xlim(at[0] * 10 ** (0.06 * length), at[-1] / 10 ** (0.06 * length))
    kept = ticks(at, 0.1 * length)
    axis.set_xticks(kept, [percent(tick) for tick in kept])
    axis.set_xticks([], minor=True)


def line(colour: str, label: str, **style: Any) -> Line2D:
    """An entry of a key."""
    return Line2D([], [], color=colour, label=label, **({"linewidth": 1.6} | style))


REMAINING = "weights remaining (%, log scale)"
