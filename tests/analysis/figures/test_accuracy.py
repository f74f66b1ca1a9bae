"""The figure of accuracy: deterministic bytes, the numbers of the tables, labels that keep apart."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import analysis
from analysis.figures import curves
from analysis.figures import spacing as layout
from analysis.figures.accuracy import accuracy_figure
from analysis.figures.style import to_png, to_svg
from lth_trainable.errors import UserError
from tests.support.records import DIGITS, N_TEST, dense, drops, ladder, make_run, tutorial, with_tables
from tests.support.svg import texts


def test_svg_bytes_are_deterministic_and_text_is_text(digits: Path) -> None:
    frames = analysis.load(digits)
    first = to_svg(accuracy_figure(frames))
    assert first == to_svg(accuracy_figure(analysis.load(digits)))
    assert first != to_svg(accuracy_figure(frames, theme="dark"))
    assert b"<dc:date>" not in first
    found = texts(first)
    for label in ("rewind epoch 0", "rewind epoch 1", "dense", "weights remaining (%, log scale)"):
        assert label in found
    for tick in ("100", "36", "13", "7.8"):
        assert tick in found


@pytest.mark.parametrize(("theme", "dark"), [("light", False), ("dark", True)])
def test_png_is_drawn_on_the_themes_background(digits: Path, theme: str, dark: bool) -> None:
    pixels = imread(io.BytesIO(to_png(accuracy_figure(analysis.load(digits), theme), dpi=50)))[..., :3]
    assert (pixels[0, 0].mean() < 0.5) == dark
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_unknown_theme(digits: Path) -> None:
    with pytest.raises(UserError, match="one of dark, light; did you mean dark"):
        accuracy_figure(analysis.load(digits), theme="drak")


def test_the_panel_has_the_numbers_of_the_tables(digits: Path) -> None:
    frames = analysis.load(digits)
    (panel,) = curves.panels(frames)
    done = frames.trials[frames.trials.status == "done"]
    assert panel.dense is not None
    assert panel.dense.mean == pytest.approx(100 * done[done.control == "dense"].test_accuracy.mean())
    assert [curve.label for curve in panel.curves] == ["rewind epoch 0", "rewind epoch 1"]
    for k, curve in enumerate(panel.curves):
        tickets = done[done.rewind_epoch == k].groupby("target_sparsity_pct").test_accuracy
        assert [point.level.mean for point in curve.points] == pytest.approx(list(100 * tickets.mean()))
        assert [point.level.n for point in curve.points] == list(tickets.count())
        assert [point.remaining_pct for point in curve.points] == pytest.approx([36, 12.96, 7.776], abs=0.01)
    assert panel.title == "digits, LeNet-300-100, IMP"


def test_only_finished_trials_are_drawn(digits: Path) -> None:
    frames = analysis.load(digits)
    stopped = frames.trials.assign(status=frames.trials.status.where(frames.trials.seed != 2, "diverged"))
    assert stopped[stopped.status == "diverged"].test_accuracy.notna().any()
    (panel,) = curves.panels(with_tables(frames, trials=stopped))
    assert panel.dense is not None
    assert panel.dense.n == 4


def test_other_budgets_are_lines_of_the_same_panel(tmp_path: Path) -> None:
    (panel,) = curves.panels(analysis.gather(tutorial(tmp_path)))
    assert panel.dense_label == "dense, 20 epochs"
    assert [label for label, _ in panel.others] == ["dense, 5 epochs"]


def test_resets_that_are_the_same_for_each_sparsity_are_one_line(tmp_path: Path) -> None:
    """Each ticket has a dense network with its resets; without masks they do not depend on the sparsity."""
    tickets = ladder(50, 80, schedule="one_shot")
    resets = [replace(ticket, control="dense_restarts") for ticket in tickets]
    means = drops({None: 0.95, 50: 0.9, 80: 0.8})
    same = {spec.seed: 0.9 + spec.seed / N_TEST for spec in tickets}
    run = make_run(tmp_path, [*dense(), *tickets, *resets], lambda t: same[t.seed] if t in resets else means(t))
    (panel,) = curves.panels(analysis.gather(run))
    assert [label for label, _ in panel.others] == ["dense with restarts"]


def test_each_dense_setting_has_its_panel(tmp_path: Path) -> None:
    specs = [*dense(), *dense(lr=0.01), *ladder(64), *ladder(64, lr=0.01)]
    frames = analysis.gather(make_run(tmp_path, specs, DIGITS))
    assert [panel.title for panel in curves.panels(frames)] == [
        "digits, LeNet-300-100",
        "digits, LeNet-300-100, learning rate 0.01",
    ]
    assert len(accuracy_figure(frames).axes) == 2


def test_labels_keep_their_distance_and_their_order() -> None:
    wanted = [10.0, 11.0, 40.0, 9.5, 39.0]
    placed = layout.spread(wanted, 12.0)
    assert sorted(range(5), key=lambda i: placed[i]) == sorted(range(5), key=lambda i: wanted[i])
    assert np.diff(sorted(placed)).min() >= 12 - 1e-9
    assert layout.spread([0.0, 50.0], 12.0) == [0.0, 50.0]
    assert np.mean(layout.spread([10.0, 10.0], 12.0)) == 10


def test_labels_stay_within_the_axis() -> None:
    wanted = [99.0, 98.0, 100.0, 1.0, 0.0]
    assert layout.spread(wanted, 12.0, (0.0, 100.0)) == pytest.approx([88.0, 76.0, 100.0, 12.0, 0.0])
    assert layout.spread([5.0] * 4, 10.0, (0.0, 30.0)) == pytest.approx([0.0, 10.0, 20.0, 30.0]), "just enough room"


def test_labels_do_not_overlap_in_the_drawn_figure(tmp_path: Path) -> None:
    figure = accuracy_figure(analysis.gather(tutorial(tmp_path)))
    figure.canvas.draw()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_ticks_that_would_collide_are_left_out() -> None:
    assert layout.ticks([100, 50, 36, 34, 13, 12.8, 7.8], 0.06) == [100, 50, 36, 13, 7.8]
