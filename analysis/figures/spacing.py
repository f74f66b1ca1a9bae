"""Axis ranges, ticks, and labels that do not overlap. Pure arithmetic; nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from analysis.figures.curves import Panel

STEP, MOST_ASIDE = 0.03, 0.12  # sideways shift of a curve, and of all together, as fractions of the axis


def spread(wanted: Sequence[float], gap: float, within: tuple[float, float] = (-math.inf, math.inf)) -> list[float]:
    """Positions at least `gap` apart, in the order of `wanted` and as close to it as possible; any unit of length.

    Minimises the sum of squared moves by pooling neighbours that would overlap. Positions outside `within` are then
    moved inside, pushing their neighbours. If there is not enough room, the last ones stay outside.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [_mean(block) for block in blocks for _ in block]
    low, high = within[0], within[1] - (len(wanted) - 1) * gap  # bounds of a position minus rank * gap
    placed = {index: max(low, min(high, level[rank])) + rank * gap for rank, index in enumerate(order)}
    return [placed[index] for index in range(len(wanted))]


def extent(panel: Panel) -> tuple[float, float]:
    """Lowest and highest value (percent) in the panel, with intervals and margin, clipped to 0 to 100."""
    levels = [point.level for curve in panel.curves for point in curve.points]
    levels += [level for _, level in panel.others] + ([panel.dense] if panel.dense else [])
    ends = [value for level in levels for value in (level.mean, level.low, level.high) if value is not None]
    ends += [level.mean for curve in panel.curves for control in curve.controls for _, level in control.points]
    if panel.dense:
        ends.append(panel.dense.mean - panel.margin_pp)
    return max(0.0, min(ends)), min(100.0, max(ends))


def remaining(panel: Panel) -> list[float]:
    """Weights remaining (percent) of all points, without repeats, from many to few."""
    return sorted({point.remaining_pct for curve in panel.curves for point in curve.points}, reverse=True)


def decades(panel: Panel) -> float:
    """Length of the log axis in decades, from 100 % to the fewest weights remaining; at least a third."""
    return max(math.log10(100 / remaining(panel)[-1]), 1 / 3)


def ticks(candidates: Iterable[float], gap: float) -> list[float]:
    """Ticks from the candidates (from many weights to few), each at least `gap` decades after the one before."""
    kept: list[float] = []
    for value in candidates:
        if not kept or math.log10(kept[-1] / value) >= gap:
            kept.append(value)
    return kept


def aside(index: int, count: int, length: float) -> float:
    """A factor on the x values of curve `index` of `count`, on a log axis of `length` decades; the first goes left.

    Points of equal sparsity stay apart, so that no curve hides another.
    """
    step = min(STEP, MOST_ASIDE / count)
    return float(10 ** (((count - 1) / 2 - index) * step * length))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
