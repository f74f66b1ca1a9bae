"""All figures of a run by name, as shown in the report and written by `python -m analysis figures`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.barriers.connections import connection_sentences
from analysis.barriers.ends import DENSE, LEVELS
from analysis.figures.accuracy import accuracy_figure
from analysis.figures.accuracy_layout import thinned
from analysis.figures.barriers import barrier_figure
from analysis.figures.connections import dense_figure, levels_figure
from analysis.figures.controls import controls_figure
from analysis.figures.curves import Ladder, ladders, panels
from analysis.figures.differences import differences_figure
from analysis.figures.early_stop import early_stop_figure
from analysis.figures.layers import layers_figure
from analysis.figures.overlap import MOST_SERIES, overlap_figure
from analysis.figures.pareto import pareto_figure
from analysis.figures.published import published_figure
from analysis.figures.style import MOST_PANELS
from analysis.figures.supermasks import supermask_figure
from analysis.figures.training import training_figure
from analysis.supermasks.summary import arms
from analysis.supermasks.words import sentences
from analysis.tables.parquet import Frames, read_table
from analysis.tables.schema import Row
from analysis.tables.suggestions import SUGGESTIONS
from lth_trainable.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Material:
    """What figures are drawn from: the tables of a run and, if it is a search, its suggestions."""

    frames: Frames
    suggestions: Sequence[Row] = ()


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One entry of the gallery. draw: material and theme name -> figure, or None if the run has nothing to show.

    caption: says what is in the figure of this run.
    """

    title: str
    caption: Callable[[Frames], str]
    draw: Callable[[Material, str], Figure | None]


def read_suggestions(store: Store, run: str) -> list[Row]:
    """The suggestions of a search; an empty list if the run is not a search."""
    table = read_table(store, run, SUGGESTIONS)
    return [] if table is None else table.to_pylist()


def drawn(material: Material, theme: str) -> Iterator[tuple[str, Drawing, Figure]]:
    """Name, entry and figure for everything the run has data for, in the order of `FIGURES`."""
    for name, drawing in FIGURES.items():
        figure = drawing.draw(material, theme)
        if figure is not None:
            yield name, drawing, figure


def _barriers(material: Material, theme: str) -> Figure | None:
    rows = material.frames.rows("barriers")
    return barrier_figure(rows, theme) if rows else None


def line_figure(name: str, rows: Sequence[Row]) -> Figure:
    """The figure of these lines, which are not all of the run. name: barriers, levels_barriers or dense_barriers."""
    draw = {"barriers": barrier_figure, "levels_barriers": levels_figure, "dense_barriers": dense_figure}
    figure = draw[name](rows)
    assert figure is not None, "there are lines"
    return figure


def _about_connections(between: str) -> Callable[[Frames], str]:
    def caption(frames: Frames) -> str:
        return " ".join(connection_sentences([row for row in frames.rows("connections") if row["between"] == between]))

    return caption


def _pareto(material: Material, theme: str) -> Figure | None:
    return pareto_figure(material.suggestions, theme) if material.suggestions else None


def _always(text: str) -> Callable[[Frames], str]:
    return lambda frames: text


def _cut(found: Sequence[Ladder], most: int) -> str:
    return f" Shown are the first {most} of {len(found)} ladders." if len(found) > most else ""


def _about_differences(frames: Frames) -> str:
    trained = {ladder.is_trained for ladder in frames.once(ladders)}
    return (
        "Tickets minus dense: the mean difference of tickets and the dense network of the same seed, with its "
        "two-sided 95 % interval; zero is the dense network, the band the margin. The marks say the verdict, which "
        "counts all comparisons; the interval counts one. Accuracy: the means of both."
        + (" Supermasks are in the figure of all accuracies, below." if trained == {True, False} else "")
    )


def _about_training(frames: Frames) -> str:
    trained = [ladder for ladder in frames.once(ladders) if ladder.is_trained]
    return (
        "Validation accuracy in each epoch of the last level: mean over seeds and 95 % t-interval."
        f"{_cut(trained, MOST_PANELS)}"
    )


def _about_accuracy(frames: Frames) -> str:
    trials = frames.rows("trials")
    diverged = any(row["status"] == "diverged" for row in trials)
    controls = any(curve.controls for panel in frames.once(panels) for curve in thinned(panel).curves)
    return (
        f"Means over all finished seeds{' (diverged ones are in the verdicts, not here)' if diverged else ''}; bars "
        "and band are two-sided 95 % t-intervals of the mean."
        + (" Dotted lines are controls of the tickets in the same colour." if controls else "")
    )


def _about_early_stop(frames: Frames) -> str:
    censored = any(row["early_stop_censored"] for row in frames.rows("trials"))
    return (
        "Where the validation loss is lowest: iterations from the initialisation (those before the rewind point "
        "included), and test accuracy there. Bars are 95 % t-intervals."
        + (" A hollow triangle is a lower bound: for at least one seed the loss was still falling." if censored else "")
    )


FIGURES: dict[str, Drawing] = {
    "differences": Drawing(
        title="Difference to the dense network",
        caption=_about_differences,
        draw=lambda material, theme: differences_figure(material.frames, theme),
    ),
    "accuracy": Drawing(
        title="Accuracy against weights remaining",
        caption=_about_accuracy,
        draw=lambda material, theme: accuracy_figure(material.frames, theme),
    ),
    "controls": Drawing(
        title="Controls",
        caption=lambda frames: "Tickets and their controls: means over seeds, with 95 % t-intervals for the tickets "
        f"and the dense network.{_cut(frames.once(ladders), MOST_PANELS)}",
        draw=lambda material, theme: controls_figure(material.frames, theme),
    ),
    "pareto": Drawing(
        title="What the search found",
        caption=_always(
            "Each point is a suggestion: its mean validation accuracy over seeds. The line is the Pareto front."
        ),
        draw=_pareto,
    ),
    "training": Drawing(
        title="Training",
        caption=_about_training,
        draw=lambda material, theme: training_figure(material.frames, theme),
    ),
    "early_stop": Drawing(
        title="Early stop",
        caption=_about_early_stop,
        draw=lambda material, theme: early_stop_figure(material.frames, theme),
    ),
    "published": Drawing(
        title="Beside what was published",
        caption=_always(
            "Lines are this run, with intervals over seeds; hollow marks are published figures, in the colour of their "
            "arm, with the margin within which the run agrees as a grey bar."
        ),
        draw=lambda material, theme: published_figure(material.frames, theme),
    ),
    "layers": Drawing(
        title="Sparsity by layer",
        caption=lambda frames: "Weights remaining in each layer (percent), mean over seeds; the first layer is at the "
        f"top.{_cut(frames.once(ladders), MOST_PANELS)}",
        draw=lambda material, theme: layers_figure(material.frames, theme),
    ),
    "overlap": Drawing(
        title="Overlap of masks",
        caption=lambda frames: "Intersection over union of the final masks of tickets that differ in one thing. Faint "
        "dots are pairs of tickets, lines their means, moved sideways where they would hide each other. Dotted lines "
        f"show what chance gives at the same layer densities.{_cut(frames.once(ladders), MOST_SERIES)}",
        draw=lambda material, theme: overlap_figure(material.frames, theme),
    ),
    "barriers": Drawing(
        title="Stability to SGD noise",
        caption=_always(
            "Error on the straight line between two copies that differ only in SGD noise. Thin lines are single pairs "
            "of copies, thick lines their means."
        ),
        draw=_barriers,
    ),
    "supermasks": Drawing(
        title="Untrained networks under masks",
        caption=lambda frames: " ".join(sentences(arms(frames.rows("supermasks")))),
        draw=lambda material, theme: (
            supermask_figure(rows, theme) if (rows := material.frames.rows("supermasks")) else None
        ),
    ),
    "levels_barriers": Drawing(
        title="From level to level",
        caption=_about_connections(LEVELS),
        draw=lambda material, theme: levels_figure(material.frames.rows("connections"), theme),
    ),
    "dense_barriers": Drawing(
        title="From the dense network to the ticket",
        caption=_about_connections(DENSE),
        draw=lambda material, theme: dense_figure(material.frames.rows("connections"), theme),
    ),
}  # fmt: skip
