"""The figure of barriers: the error on the straight line between two copies of a network."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.barriers.networks import (
    DONE,
    RAW,
    RECOMPUTED,
    STABLE_PP,
    Network,
    has_batch_norm,
    ladder_labels,
    networks,
    shared_label,
)
from analysis.figures.style import STYLE, THEMES, Theme, frame, key_columns, title_size
from analysis.tables.schema import Row

SPLITS = ("test", "train")
ROW, TOP, BOTTOM, KEY_LINE = 2.5, 0.55, 0.65, 0.17  # inches: one row of panels, above and below all, a line of the key
MOST_ACROSS = 6  # entries of the key side by side
LEAST_SPAN = 2 * STABLE_PP  # pp; a shorter axis would make a step of one image look like a barrier
FAINT, END = 0.28, 4.0  # opacity of a single line, size of the marker at an end
_DASHES = {RECOMPUTED: "-", RAW: (0, (4, 1.6))}


def barrier_figure(rows: Sequence[Row], theme: str = "light") -> Figure:
    """Error (percent) along the line, one row of panels per ladder: test data on the left, training data on the right.

    Each thin line is one pair of copies. The thick line is the mean over seeds and pairs of order seeds. Where the
    BatchNorm statistics matter, solid lines have recomputed and dashed lines interpolated statistics (means only).
    """
    colours, found = THEMES[theme], networks(rows)
    ladders: dict[str, list[Network]] = defaultdict(list)
    for network in found:
        ladders[network.ladder].append(network)
    labels, both = ladder_labels(found), has_batch_norm(rows)
    palette = _palette(found, colours)
    with mpl.rc_context(STYLE):
        key = _key(palette, both, colours)
        across = min(MOST_ACROSS, key_columns(key, colours.width))
        bottom = BOTTOM + KEY_LINE * (math.ceil(len(key) / across) - 1)
        rows_of_panels, width = len(ladders) * len(SPLITS) // colours.columns, colours.width
        height = TOP + ROW * rows_of_panels + bottom
        figure = Figure(figsize=(width, height), facecolor=colours.background)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows_of_panels, colours.columns, squeeze=False)
        figure.subplots_adjust(
            left=0.65 / width, right=1 - 0.11 / width, bottom=bottom / height, top=1 - TOP / height, hspace=0.32,
            wspace=0.16,
        )  # fmt: skip
        for axis, (ladder, split) in zip(axes.flat, itertools.product(ladders, SPLITS), strict=True):
            for network in ladders[ladder]:
                _draw(axis, network, split, palette[network.label], [RECOMPUTED, RAW] if both else [RAW])
            _dress(axis, f"{labels[ladder]}, {split}", colours)
        for axis in axes[:, 0]:
            axis.set_ylabel("error (%)", color=colours.text)
        title = f"{shared_label(found)}: error between two copies"
        figure.suptitle(
            title, x=0.01, y=1 - 0.1 / height, ha="left", va="top", color=colours.text, fontweight="bold",
            fontsize=title_size(axes[0, 0], title, 10.5),
        )  # fmt: skip
        figure.legend(
            handles=key, loc="lower left", bbox_to_anchor=(0.54 / width, 0.08 / height), ncols=across, frameon=False,
            labelcolor=colours.muted, fontsize=8.5, handlelength=1.6, columnspacing=1.4, borderpad=0,
            borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _palette(found: Sequence[Network], theme: Theme) -> dict[str, str]:
    """The colour of each network: dense has the colour of text, tickets those of the theme, from least sparse on."""
    labels = sorted({n.label for n in found if n.label != "dense"}, key=lambda label: float(label.split()[0]))
    tickets = {label: theme.series[i % len(theme.series)] for i, label in enumerate(labels)}
    return ({"dense": theme.text} if any(n.label == "dense" for n in found) else {}) | tickets


def _draw(axis: Any, network: Network, split: str, colour: str, kinds: Sequence[str]) -> None:
    for kind in kinds:
        dashes = _DASHES[kind] if len(kinds) > 1 else "-"
        lines = [
            row for row in network.rows
            if row["part"] == split and row["batch_norm"] == kind and row["status"] == DONE
        ]  # fmt: skip
        if not lines:
            continue
        if kind == kinds[0]:
            for line in lines:
                axis.plot(line["alphas"], line["errors_pct"], color=colour, linewidth=0.8, alpha=FAINT)
        longest = max(lines, key=lambda line: line["n_points"])
        alphas = longest["alphas"]
        same = [line["errors_pct"] for line in lines if line["n_points"] == longest["n_points"]]
        means = [fmean(errors) for errors in zip(*same, strict=True)]
        axis.plot(alphas, means, color=colour, linewidth=1.7, linestyle=dashes, zorder=3)
        axis.plot(
            [alphas[0], alphas[-1]], [means[0], means[-1]], color=colour, linestyle="none", marker="o", markersize=END,
            zorder=4, clip_on=False,
        )  # fmt: skip


def _dress(axis: Any, title: str, theme: Theme) -> None:
    axis.set_facecolor("none")
    axis.set_title(title, loc="left", color=theme.text, fontsize=9, pad=5)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["one copy", "¼", "½", "¾", "the other"])
    for label, alignment in zip(axis.get_xticklabels(), ("left", "center", "center", "center", "right"), strict=True):
        label.set_horizontalalignment(alignment)
    low, high = axis.get_ylim()
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    low, high = max(low - spare, 0.0), max(high + spare, LEAST_SPAN)
    axis.set_ylim(low - 0.02 * (high - low), high)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    frame(axis, theme)


def _key(palette: dict[str, str], both: bool, theme: Theme) -> list[Line2D]:
    """The entries of the key."""
    handles = [Line2D([], [], color=colour, linewidth=1.7, label=label) for label, colour in palette.items()]
    words = {RECOMPUTED: "BatchNorm recomputed", RAW: "BatchNorm interpolated"}
    if both:
        handles += [
            Line2D([], [], color=theme.muted, linewidth=1.4, linestyle=_DASHES[k], label=w) for k, w in words.items()
        ]
    return handles
