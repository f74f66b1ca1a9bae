"""Where things go in the figure: axis ranges, ticks, labels that do not overlap. Pure arithmetic, no drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from analysis.figures.curves import Panel


def spread(wanted: Sequence[float], gap: float, within: tuple[float, float] = (-math.inf, math.inf)) -> list[float]:
    """Positions at least `gap` apart in the order of `wanted`, as near to it as that allows.

    Least sum of squared moves, by pooling neighbours that would overlap; any unit of length. What would then lie
    outside of `within` is moved back in, with what it pushes; of more than there is room for the last are outside.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [_mean(block) for block in blocks for _ in block]
    low, high = within[0], within[1] - (len(wanted) - 1) * gap  # of a position less its rank times the gap
    placed = {index: max(low, min(high, level[rank])) + rank * gap for rank, index in enumerate(order)}
    return [placed[index] for index in range(len(wanted))]


def extent(panel: Panel) -> tuple[float, float]:
    """Lowest and highest value (per cent) that the panel shows, intervals and margin included, within 0 to 100."""
    levels = [point.level for curve in panel.curves for point in curve.points]
    levels += [level for _, level in panel.others] + ([panel.dense] if panel.dense else [])
    ends = [value for level in levels for value in (level.mean, level.low, level.high) if value is not None]
    ends += [level.mean for curve in panel.curves for control in curve.controls for _, level in control.points]
    if panel.dense:
        ends.append(panel.dense.mean - panel.margin_pp)
    return max(0.0, min(ends)), min(100.0, max(ends))


def remaining(panel: Panel) -> list[float]:
    """Weights remaining (per cent) of all its points, without repeats, from many to few."""
    return sorted({point.remaining_pct for curve in panel.curves for point in curve.points}, reverse=True)


def decades(panel: Panel) -> float:
    """Length of the log axis: decades from 100 % to the fewest weights remaining, at least a third of one."""
    return max(math.log10(100 / remaining(panel)[-1]), 1 / 3)


def ticks(candidates: Iterable[float], gap: float) -> list[float]:
    """The candidates (from many weights to few) without those nearer than `gap` decades to the one kept before."""
    kept: list[float] = []
    for value in candidates:
        if not kept or math.log10(kept[-1] / value) >= gap:
            kept.append(value)
    return kept


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
