"""The key figure: paired differences, with the intervals that decide and the marks of the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.collections import LineCollection

import analysis
from analysis.figures.differences import differences_figure
from analysis.figures.gallery import FIGURES, Material, drawn
from analysis.figures.style import THEMES, to_svg
from analysis.figures.training import training_figure
from analysis.tables.parquet import Frames
from analysis.tables.schema import FALLS_SHORT, LOWER, TABLES, UNDECIDED, table
from analysis.verdicts.headlines import headlines
from tests.support.records import around, dense, ladder, make_run
from tests.support.svg import texts
from tests.support.verdicts import BELOW, SLIGHTLY_LOWER, VAGUE, judge

EMPTY = {name: schema.empty_table() for name, schema in TABLES.items()}


def frames_of(differences: dict[float | None, list[float]]) -> Frames:
    return Frames(tables={**EMPTY, "verdicts": table("verdicts", judge(differences))})


def left_of(frames: Frames) -> Any:
    figure = differences_figure(frames)
    assert figure is not None
    return figure.axes[0]


def test_points_and_bars_are_the_effects_and_intervals_of_the_verdicts(digits: Path) -> None:
    frames = analysis.load(digits)
    rows = [row for row in headlines(frames.rows("verdicts")) if row["primary"]]
    axis = left_of(frames)
    drawn = sorted(y for line in axis.lines if line.get_marker() in ("o", "x") for y in line.get_ydata())
    assert drawn == pytest.approx(sorted(row["effect"] for row in rows))
    bars = [c.get_segments()[0][:, 1] for c in axis.collections if isinstance(c, LineCollection)]
    for end, name in enumerate(("ci_low", "ci_high")):
        assert sorted(bar[end] for bar in bars) == pytest.approx(sorted(row[name] for row in rows))
    low, high = axis.get_ylim()
    assert low < -rows[0]["margin_pp"] and low < min(drawn) and high > 0
    assert min(row["ci_low"] for row in rows) < -50 < low, "a diverged ticket does not dwarf all others"


def test_points_of_different_rewind_epochs_do_not_hide_each_other(digits: Path) -> None:
    axis = left_of(analysis.load(digits))
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() in ("o", "x")]
    assert len({x for x, _ in points}) == len(points)


def test_marks_say_what_the_verdicts_say() -> None:
    axis = left_of(frames_of({50.0: SLIGHTLY_LOWER, 80.0: VAGUE, 90.0: BELOW}))
    lower, undecided, short = (line for line in axis.lines if line.get_marker() in ("o", "x"))
    assert lower.get_fillstyle() == "bottom" and lower.get_markerfacecolor() != THEMES["light"].background
    assert undecided.get_markerfacecolor() == THEMES["light"].background
    assert short.get_marker() == "x"
    found = texts(to_svg(axis.figure))
    assert {LOWER, UNDECIDED, FALLS_SHORT, "margin, 1 pp", "dense"} <= set(found)
    assert "matches or beats" not in found


@pytest.mark.parametrize("theme", THEMES)
def test_the_same_run_gives_the_same_bytes(digits: Path, theme: str) -> None:
    first, second = (differences_figure(analysis.load(digits), theme) for _ in range(2))
    assert first is not None and second is not None and to_svg(first) == to_svg(second)


def test_without_pairs_there_is_none() -> None:
    assert differences_figure(Frames(tables=EMPTY)) is None


def test_it_is_the_first_figure_of_the_report(digits: Path) -> None:
    material = Material(frames=analysis.load(digits))
    assert next(drawn(material, "light"))[0] == "differences"


def with_supermasks(folder: Path, trained: bool = True) -> Frames:
    """Tickets that are pruned once, and the supermasks of the same masks, at 50 and 80 % each."""
    tickets = ladder(50, 80, schedule="one_shot") if trained else []
    supermasks = ladder(50, 80, schedule="one_shot", reset_end=True)
    means = around(0.9), around(0.3)
    return analysis.gather(make_run(folder, [*dense(), *tickets, *supermasks], lambda t: means[t.reset_end](t)))


def test_supermasks_do_not_dwarf_tickets_that_were_trained(tmp_path: Path) -> None:
    frames = with_supermasks(tmp_path)
    axis = left_of(frames)
    marks = [line for line in axis.lines if line.get_marker() in ("o", "x")]
    assert len(marks) == 2 and axis.get_ylim()[0] > -20
    assert "tickets" in texts(to_svg(axis.figure)), "one ladder needs no label that tells it apart"
    assert "Supermasks are in the figure of all accuracies" in FIGURES["differences"].caption(frames)


def test_supermasks_alone_are_drawn(tmp_path: Path) -> None:
    frames = with_supermasks(tmp_path, trained=False)
    assert left_of(frames).get_ylim()[0] < -50
    assert "Supermasks" not in FIGURES["differences"].caption(frames)


def test_what_was_trained_to_find_a_supermask_is_not_its_learning_curve(tmp_path: Path) -> None:
    figure = training_figure(with_supermasks(tmp_path / "both"))
    assert figure is not None and len(figure.axes) == 1
    assert training_figure(with_supermasks(tmp_path / "alone", trained=False)) is None
