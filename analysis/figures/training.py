"""Learning curves: validation accuracy in each epoch of the last level, for tickets and the dense network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pyarrow.compute as pc
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.curves import Ladder, Level, ladders, level_of
from analysis.figures.style import MOST_PANELS, STYLE, Theme, canvas, dress, line, theme_of
from analysis.tables.parquet import Frames
from analysis.tables.spans import last_levels
from analysis.text import percent

LearningCurve = Sequence[Level]  # percent, one level for each epoch since the last prune; the first is epoch 1
HEIGHT, BAND = 2.2, 0.13  # inches; opacity of an interval
ORDERED = (0.25, 0.8)  # the range of viridis that is visible on white and on black


def learning_curves(frames: Frames) -> dict[str, LearningCurve]:
    """Group -> mean validation accuracy (percent) in each epoch of the last level, over the seeds that trained it."""
    done = {row["trial"]: row["group"] for row in frames.rows("trials") if row["status"] == "done"}
    epochs = frames.tables["epochs"].select(["trial", "level", "valid_accuracy"])
    epochs = last_levels(epochs.filter(pc.is_valid(epochs["valid_accuracy"])), done)
    values: dict[str, dict[int, list[float]]] = {}
    numbers: Counter[str] = Counter()
    for trial, accuracy in zip(epochs["trial"].to_pylist(), epochs["valid_accuracy"].to_pylist(), strict=True):
        values.setdefault(done[trial], {}).setdefault(numbers[trial], []).append(100 * accuracy)
        numbers[trial] += 1
    return {group: [level_of(found[at]) for at in sorted(found)] for group, found in values.items()}


def training_figure(frames: Frames, theme: str = "light") -> Figure | None:
    """One panel per ladder: accuracy (percent) by epoch since the last prune, with 95 % t-intervals of the mean.

    Supermasks have none: what was trained to find them is not what they are. None if no ticket has trained an epoch.
    Raises `UserError` for an unknown theme.
    """
    colours, found = theme_of(theme), frames.once(learning_curves)
    trained = [ladder for ladder in frames.once(ladders) if ladder.is_trained]
    shown = [ladder for ladder in trained if any(rung.group in found for rung in ladder.rungs)]
    if not shown:
        return None
    shown = shown[:MOST_PANELS]
    palette = _palette(shown, colours)
    with mpl.rc_context(STYLE):
        key = [line(colours.text, "dense"), *(line(colour, f"{left} % left") for left, colour in palette.items())]
        figure, axes = canvas(len(shown), HEIGHT, key, colours)
        for axis, ladder in zip(axes, shown, strict=True):
            dress(axis, ladder.label, "epoch since the last prune", "validation accuracy (%)", colours)
            _draw_ladder(axis, ladder, found, palette, colours)
    return figure


def _draw_ladder(
    axis: Any, ladder: Ladder, found: Mapping[str, LearningCurve], palette: Mapping[str, str], theme: Theme
) -> None:
    if ladder.dense_group is not None and ladder.dense_group in found:
        _draw(axis, found[ladder.dense_group], theme.text)
    for rung in ladder.rungs:
        if rung.group in found:
            _draw(axis, found[rung.group], palette[percent(rung.remaining_pct)])
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _draw(axis: Any, curve: LearningCurve, colour: str) -> None:
    x = range(1, len(curve) + 1)
    low = [level.mean if level.low is None else level.low for level in curve]
    high = [level.mean if level.high is None else min(level.high, 100.0) for level in curve]
    axis.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)
    marker: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(curve) == 1 else {}
    axis.plot(x, [level.mean for level in curve], color=colour, linewidth=1.5, **marker)


def _palette(shown: Sequence[Ladder], theme: Theme) -> dict[str, str]:
    """Label of the weights remaining -> colour, from many to few. If the theme has too few colours, viridis is used."""
    left = sorted({rung.remaining_pct for ladder in shown for rung in ladder.rungs}, reverse=True)
    written = list(dict.fromkeys(map(percent, left)))
    if len(written) <= len(theme.series):
        return dict(zip(written, theme.series, strict=False))
    depths = [ORDERED[0] + (ORDERED[1] - ORDERED[0]) * i / (len(written) - 1) for i in range(len(written))]
    return {text: to_hex(mpl.colormaps["viridis"](depth)) for text, depth in zip(written, depths, strict=True)}
