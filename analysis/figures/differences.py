"""The key figure of a run: paired differences to the dense network against weights remaining, and the accuracies.

What is judged is the difference of ticket and dense network within a seed. Means of accuracies with intervals of their
own would hide it: seeds differ more from each other than tickets from dense networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.curves import ladder_labels, supermask_ladders
from analysis.figures.spacing import aside, ticks
from analysis.figures.style import REMAINING, STYLE, Theme, canvas, colour_and_dashes, dress, line, theme_of
from analysis.tables.parquet import Frames
from analysis.tables.schema import BEATS, FALLS_SHORT, LOWER, MATCHES, UNDECIDED, Row
from analysis.text import percent
from analysis.verdicts.headlines import KEEPING_UP, headlines

HEIGHT = 2.9
WORDS = {MATCHES: "matches or beats", LOWER: LOWER, UNDECIDED: UNDECIDED, FALLS_SHORT: FALLS_SHORT}


def differences_figure(frames: Frames, theme: str = "light") -> Figure | None:
    """Two panels against weights remaining (percent, log), one curve for each ladder with a primary comparison.

    Left: mean paired difference, ticket minus dense, in percentage points, with its 95 % interval;
    the zero line is dense, and the band is the margin. Markers say the headline: filled for beats or matches, half
    filled for within the margin but lower, open for undecided, a cross for falls short. Right: the means of both sides
    over the same seeds. Supermasks are left out beside tickets that were trained: they are so far below that nothing
    could be read of the others. None without pairs. Raises `UserError` for an unknown theme.
    """
    colours, labels = theme_of(theme), ladder_labels(frames)
    rows = [row for row in headlines(frames.rows("verdicts")) if row["primary"]]
    rows = [row for row in rows if row["effect"] is not None and row["sparsity_pct"] is not None]
    found = {ladder: [row for row in rows if row["ladder"] == ladder] for ladder in labels}
    shown = {ladder: sorted(of, key=_remaining, reverse=True) for ladder, of in found.items() if of}
    untrained = frames.once(supermask_ladders)
    trained = {ladder: of for ladder, of in shown.items() if ladder not in untrained}
    shown = trained or shown
    if not shown:
        return None
    rows = [row for of in shown.values() for row in of]
    labels = labels if len(shown) > 1 else dict.fromkeys(shown, "tickets")
    with mpl.rc_context(STYLE):
        figure, (left, right) = canvas(2, HEIGHT, _key(shown, labels, colours), colours)
        endpoint = rows[0]["endpoint"].replace("_", " ")
        dress(left, "tickets minus dense, paired by seed", REMAINING, f"difference in {endpoint} (pp)", colours)
        dress(right, "accuracy", REMAINING, f"{endpoint} (%)", colours)
        margin = rows[0]["margin_pp"]
        left.axhspan(-margin, 0, color=colours.muted, alpha=0.13, linewidth=0)
        left.axhline(0, color=colours.text, linewidth=1.1)
        values = sorted({100.0, *map(_remaining, rows)}, reverse=True)
        length = max(math.log10(values[0] / values[-1]), 1 / 3)
        for index, of in enumerate(shown.values()):
            colour, dashes = colour_and_dashes(index, colours)
            shift = aside(index, len(shown), length)
            _draw_differences(left, of, colour, dashes, shift, colours)
            _draw_accuracy(right, of, colour, dashes, shift, colours)
        for axis in (left, right):
            _limits(axis, values, length)
        _room_for_zero(left, rows, margin)
    return figure


def _remaining(row: Row) -> float:
    return 100.0 - float(row["sparsity_pct"])


def _draw_differences(
    axis: Any, rows: Sequence[Row], colour: str, dashes: Any, shift: float, theme: Theme
) -> None:  # fmt: skip
    x = [_remaining(row) * shift for row in rows]
    axis.plot(x, [row["effect"] for row in rows], color=colour, linewidth=0.9, linestyle=dashes, alpha=0.55, zorder=2)
    for at, row in zip(x, rows, strict=True):
        if row["ci_low"] is not None:
            axis.vlines(at, row["ci_low"], row["ci_high"], color=colour, linewidth=1.4, zorder=3)
        axis.plot([at], [row["effect"]], color=colour, zorder=4, **marker(row["verdict"], colour, theme))


def _draw_accuracy(axis: Any, rows: Sequence[Row], colour: str, dashes: Any, shift: float, theme: Theme) -> None:
    dense = 100 * rows[0]["mean_baseline"]
    x, y = [_remaining(row) * shift for row in rows], [100 * row["mean_ticket"] for row in rows]
    axis.axhline(dense, color=theme.text, linewidth=1.1, zorder=1)
    axis.plot([100, *x], [dense, *y], color=colour, linewidth=1.4, linestyle=dashes, marker=".", markersize=5)


def marker(headline: str, colour: str, theme: Theme) -> dict[str, Any]:
    """The mark of a headline, as arguments of matplotlib's `plot`."""
    if headline == FALLS_SHORT:
        return {"marker": "x", "markersize": 6.5, "markeredgewidth": 1.8, "linestyle": "none"}
    face = colour if headline in KEEPING_UP else theme.background
    half = {"fillstyle": "bottom", "markerfacecoloralt": theme.background} if headline == LOWER else {}
    return {
        "marker": "o", "markersize": 6.5, "markerfacecolor": face, "markeredgewidth": 1.5, "linestyle": "none", **half,
    }  # fmt: skip


def _key(shown: Mapping[str, Sequence[Row]], labels: Mapping[str, str], theme: Theme) -> list[Line2D]:
    """Dense, every ladder, every mark that occurs, and the band."""
    entries = [line(theme.text, "dense", linewidth=1.1)]
    for index, ladder in enumerate(shown):
        colour, dashes = colour_and_dashes(index, theme)
        entries.append(line(colour, labels[ladder], linestyle=dashes))
    found = {MATCHES if row["verdict"] == BEATS else row["verdict"] for of in shown.values() for row in of}
    words = [word for word in WORDS if word in found]
    entries += [line(theme.muted, WORDS[word], **marker(word, theme.muted, theme)) for word in words]
    margin = next(iter(shown.values()))[0]["margin_pp"]
    return [*entries, line(theme.muted, f"margin, {margin:g} pp", linewidth=7, alpha=0.22, solid_capstyle="butt")]


def _limits(axis: Any, values: Sequence[float], length: float) -> None:
    axis.set_xscale("log")
    axis.set_xlim(100 * 10 ** (0.04 * length), values[-1] / 10 ** (0.1 * length))
    at = ticks(values, 0.1 * length)
    axis.set_xticks(at, [percent(tick) for tick in at])
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))


def _room_for_zero(axis: Any, rows: Iterable[Row], margin: float) -> None:
    """Limits that hold all differences, zero, the margin, and of the intervals what does not dwarf them."""
    effects = [row["effect"] for row in rows]
    low, high = min(-margin, *effects), max(0.0, *effects)
    reach = high - low
    ends = [row[name] for row in rows for name in ("ci_low", "ci_high") if row[name] is not None]
    ends = [min(max(end, low - reach), high + reach) for end in ends]
    low, high = min([low, *ends]), max([high, *ends])
    axis.set_ylim(low - 0.07 * (high - low), high + 0.07 * (high - low))
