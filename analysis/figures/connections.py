"""The figures of lines between trained networks: level after level of a ladder, and from the dense network to tickets.

`levels_figure` walks through weight space: from the dense network to the end of level 1, from there to that of level 2,
and so on. The error on the way shows whether each level ends in the low-error region of the level before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.barriers.connections import Connection, by_ladder, connections, end_label, tally
from analysis.barriers.ends import DENSE, LEVELS
from analysis.barriers.networks import RAW, STABLE_PP
from analysis.figures.barriers import LEAST_SPAN
from analysis.figures.style import STYLE, THEMES, Theme, canvas, dress, line
from analysis.labels import short_labels
from analysis.tables.schema import Row

SPLITS = ("test", "train")
HEIGHT = 1.75  # inches, of a panel
FAINT = 0.28  # opacity of a single line
_BROKEN = (0, (1.2, 1.2))  # a line that is not connected


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """A figure of panels: test and training data of each ladder.

    title: of a panel. x: label of its axis. draw: puts the connections of a ladder into a panel. key: its entries.
    """

    found: Sequence[Connection]
    title: Callable[[str, Sequence[Connection], str], str]
    x: str
    draw: Callable[[Any, Sequence[Connection], str], None]
    key: Sequence[Line2D]
    theme: Theme

    def figure(self) -> Figure:
        ladders = by_ladder(self.found)
        labels = short_labels(list(ladders))
        panels = [(ladder, split) for ladder in ladders for split in SPLITS]
        with mpl.rc_context(STYLE):
            figure, axes = canvas(len(panels), HEIGHT, self.key, self.theme)
            for axis, (ladder, split) in zip(axes, panels, strict=True):
                self.draw(axis, ladders[ladder], split)
                dress(axis, self.title(labels[ladder], ladders[ladder], split), self.x, "error (%)", self.theme)
                _scale(axis)
        return figure


def levels_figure(rows: Sequence[Row], theme: str = "light") -> Figure | None:
    """Error (percent) on the way from the dense network over the end of each level to the sparsest ticket.

    Thick lines are means over all lines of a pair, thin ones single lines. A line that is not connected is dotted and
    has another colour; a filled mark is a network that matches the dense one, a hollow one does not; without a mark it
    is not known. None: no such lines are stored.
    """
    found = connections(rows, LEVELS)
    if not found:
        return None
    colours = THEMES[theme]
    return _Sheet(
        found=found, theme=colours, key=_levels_key(found, colours), x="end of each level: weights removed (%)",
        title=lambda label, pairs, split: (
            f"{label}, {split}" + (f": rule holds {tally(pairs)}" if split == "test" else "")
        ),
        draw=lambda axis, pairs, split: _walk(axis, pairs, split, colours),
    ).figure()  # fmt: skip


def dense_figure(rows: Sequence[Row], theme: str = "light") -> Figure | None:
    """Error (percent) on the line from the dense network to each ticket. None: no such lines are stored."""
    found = connections(rows, DENSE)
    if not found:
        return None
    colours = THEMES[theme]
    targets = sorted({_target(pair) for pair in found}, key=lambda label: float(label.split()[0]))
    palette = {label: colours.series[i % len(colours.series)] for i, label in enumerate(targets)}
    return _Sheet(
        found=found, theme=colours, x="position on the line", title=lambda label, pairs, split: f"{label}, {split}",
        key=[*(line(c, f"to {label}") for label, c in palette.items()), *_verdicts(found, colours.muted, colours)],
        draw=lambda axis, pairs, split: _fan(axis, pairs, split, palette, colours),
    ).figure()  # fmt: skip


def _target(pair: Connection) -> str:
    return end_label(pair.rows[0], "b")


def _walk(axis: Any, pairs: Sequence[Connection], split: str, theme: Theme) -> None:
    """The connections of a ladder one after the other."""
    _band(axis, pairs, split, theme)
    ticks: dict[int, str] = {}
    for pair in pairs:
        at, to = pair.levels
        _draw(axis, pair, split, _colour(pair, theme), lambda alpha, at=at, to=to: at + alpha * (to - at), theme)  # type: ignore[misc]
        ticks |= {at: end_label(pair.rows[0], "a"), to: end_label(pair.rows[0], "b")}
    axis.set_xlim(min(ticks) - 0.12, max(ticks) + 0.12)
    many = max(1, math.ceil(len(ticks) / 7))
    chosen = sorted(ticks)[::many]
    axis.set_xticks(chosen, [ticks[level].removesuffix(" %") for level in chosen])


def _fan(axis: Any, pairs: Sequence[Connection], split: str, palette: dict[str, str], theme: Theme) -> None:
    """All connections of a ladder from the same point."""
    _band(axis, pairs, split, theme)
    for pair in pairs:
        _draw(axis, pair, split, palette[_target(pair)], lambda alpha: alpha, theme)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["dense", "¼", "½", "¾", "ticket"])


def _band(axis: Any, pairs: Sequence[Connection], split: str, theme: Theme) -> None:
    """On test data: the errors of networks that match, up to the margin above the dense one."""
    errors = [
        row["error_a_pct"] for pair in pairs for row in pair.rows
        if row["level_a"] == 0 and row["part"] == split and row["batch_norm"] == RAW
    ]  # fmt: skip
    if errors and split == "test":
        axis.axhspan(fmean(errors), fmean(errors) + pairs[0].margin_pp, color=theme.muted, alpha=0.13, linewidth=0)


def _draw(
    axis: Any, pair: Connection, split: str, colour: str, x: Callable[[float], float], theme: Theme
) -> None:  # fmt: skip
    lines = [row for row in pair.rows if row["part"] == split and row["batch_norm"] == pair.kind]
    for one in lines if len(lines) > 1 else ():
        axis.plot([x(alpha) for alpha in one["alphas"]], one["errors_pct"], color=colour, linewidth=0.8, alpha=FAINT)
    most = max(one["n_points"] for one in lines)
    same = [one for one in lines if one["n_points"] == most]
    means = [fmean(errors) for errors in zip(*(one["errors_pct"] for one in same), strict=True)]
    dashes = "-" if pair.is_connected else _BROKEN
    axis.plot([x(alpha) for alpha in same[0]["alphas"]], means, color=colour, linewidth=1.8, linestyle=dashes, zorder=3)
    for end, at in (("a", 0.0), ("b", 1.0)):
        if (matches := pair.matches_at(end)) is None:
            continue
        face = colour if matches else theme.background
        axis.plot(
            x(at), means[0] if end == "a" else means[-1], color=colour, marker="o", markersize=4.6,
            markerfacecolor=face, zorder=5 if end == "b" else 4, clip_on=False,
        )  # fmt: skip


def _scale(axis: Any) -> None:
    low, high = axis.get_ylim()
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    low, high = max(low - spare, 0.0), max(high + spare, LEAST_SPAN)
    axis.set_ylim(low - 0.03 * (high - low), high)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))


def _colour(pair: Connection, theme: Theme) -> str:
    return theme.series[0] if pair.is_connected else theme.series[1]


def _levels_key(found: Sequence[Connection], theme: Theme) -> list[Line2D]:
    connected = [line(theme.series[0], f"connected: barrier below {STABLE_PP:g} pp on test")]
    return [
        *(connected if any(pair.is_connected for pair in found) else []),
        *_verdicts(found, theme.series[1], theme),
    ]


def _verdicts(found: Sequence[Connection], broken: str, theme: Theme) -> list[Line2D]:
    """What lines and marks say, as far as there are such. broken: colour of lines that do not connect."""
    style = {"linestyle": "none", "marker": "o", "markersize": 4.6}
    matches = {pair.matches_at(end) for pair in found for end in "ab"}
    marks = {
        True: line(theme.muted, f"matches: at most {found[0].margin_pp:g} pp above dense", **style),
        False: line(theme.muted, "does not match", markerfacecolor=theme.background, **style),
    }
    is_broken = not all(pair.is_connected for pair in found)
    return [
        *([line(broken, f"not connected: {STABLE_PP:g} pp or more", linestyle=_BROKEN)] if is_broken else []),
        *(entry for value, entry in marks.items() if value in matches),
    ]
