"""Sparsity by layer: where in the network the remaining weights are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.curves import Ladder, ladders
from analysis.figures.style import LEFT, MOST_PANELS, STYLE, Theme, canvas, dress, theme_of
from analysis.tables.parquet import Frames
from analysis.tables.spans import last_levels
from analysis.text import percent

CELL, WIDEST, FAINT = 0.24, 0.92, 0.06  # height in inches; fraction of a column; opacity of the emptiest cell
SAME = 0.02  # part of the weights remaining by which layers may differ and still count as equal: whole weights
MOST_ROOM = 1.9  # inches, for the names of layers beside a panel


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The panel of one ladder. layers: names, from input to output. columns: weights remaining in all (percent).
    cells[layer][column]: weights remaining in that layer (percent), mean over seeds."""

    label: str
    layers: tuple[str, ...]
    columns: tuple[float, ...]
    cells: tuple[tuple[float, ...], ...]


def strips(frames: Frames) -> list[Strip]:
    """One strip per ladder in which the layers differ, from the last masks of its finished tickets."""
    done = {row["trial"]: row["group"] for row in frames.rows("trials") if row["status"] == "done"}
    last = last_levels(frames.tables["layers"], done)
    kept: dict[str, dict[str, list[float]]] = {}
    columns = (last[name].to_pylist() for name in ("trial", "layer", "n_kept", "n_weights"))
    for trial, layer, n_kept, n_weights in zip(*columns, strict=True):
        kept.setdefault(done[trial], {}).setdefault(layer, []).append(100 * n_kept / n_weights)
    found = [strip for ladder in frames.once(ladders) if (strip := _strip(ladder, kept)) is not None]
    return [strip for strip in found if any(_varies(column) for column in zip(*strip.cells, strict=True))]


def _varies(cells: Sequence[float]) -> bool:
    """Whether layers keep visibly different parts of their weights (percent): by more than a fiftieth of the most."""
    return max(cells) - min(cells) > SAME * max(cells)


def _strip(ladder: Ladder, kept: Mapping[str, Mapping[str, Sequence[float]]]) -> Strip | None:
    rungs = [rung for rung in ladder.rungs if rung.group in kept]
    if not rungs:
        return None
    names = tuple(kept[rungs[0].group])
    return Strip(
        label=ladder.label,
        layers=names,
        columns=tuple(rung.remaining_pct for rung in rungs),
        cells=tuple(tuple(fmean(kept[rung.group][name]) for rung in rungs) for name in names),
    )


def layers_figure(frames: Frames, theme: str = "light") -> Figure | None:
    """One panel per ladder: a row per layer, a column per sparsity, each cell the layer's weights remaining (percent).

    The shade is logarithmic; "none" means that the layer is empty in every seed. None if there is no finished ticket,
    or if all layers of every ticket have the sparsity of the whole. Raises `UserError` for an unknown theme.
    """
    colours, shown = theme_of(theme), frames.once(strips)[:MOST_PANELS]
    if not shown:
        return None
    least = min((cell for strip in shown for row in strip.cells for cell in row if cell > 0), default=100.0)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(len(shown), CELL * max(len(strip.layers) for strip in shown), [], colours)
        for axis, strip in zip(axes, shown, strict=True):
            _make_room(axis, max(map(len, strip.layers)))
            dress(axis, strip.label, "weights remaining in all (%)", "", colours)
            _draw(axis, strip, least, colours)
    return figure


def _make_room(axis: Any, letters: int) -> None:
    """Shrink the panel on the left so that the longest layer name fits."""
    box, width = axis.get_position(), axis.figure.get_figwidth()
    room = min(MOST_ROOM, 0.2 + letters * 5.6 / 72)
    extra = max(0.0, room - LEFT + 0.1) / width
    axis.set_position((box.x0 + extra, box.y0, box.width - extra, box.height))


def _draw(axis: Any, strip: Strip, least: float, theme: Theme) -> None:
    for y, row in enumerate(strip.cells):
        for x, cell in enumerate(row):
            depth = _depth(cell, least)
            corner = (x - WIDEST / 2, y - WIDEST / 2)
            axis.add_patch(Rectangle(corner, WIDEST, WIDEST, color=theme.series[0], alpha=depth, linewidth=0))
            ink = theme.background if depth > 0.6 else theme.text
            text = percent(cell) if cell > 0 else "none"
            axis.text(x, y, text, ha="center", va="center", color=ink, fontsize=8)
    axis.set_xlim(-0.5, len(strip.columns) - 0.5)
    axis.set_ylim(len(strip.layers) - 0.5, -0.5)
    axis.set_xticks(range(len(strip.columns)), [percent(value) for value in strip.columns])
    axis.set_yticks(range(len(strip.layers)), strip.layers)
    axis.tick_params(length=0)
    axis.grid(visible=False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)


def _depth(cell: float, least: float) -> float:
    """Opacity of a cell: 1 if all weights remain, `FAINT` for the sparsest cell, logarithmic in between."""
    if cell <= 0 or least >= 100:
        return FAINT if cell <= 0 else 1.0
    return FAINT + (1 - FAINT) * (1 - math.log(cell / 100) / math.log(least / 100))
