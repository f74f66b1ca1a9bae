"""The figures of a run: their numbers, the command that writes them, and the report in a real browser."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.__main__ import main
from analysis.figures import curves
from analysis.figures.accuracy import accuracy_figure
from analysis.figures.controls import controls_figure
from analysis.figures.early_stop import stops
from analysis.figures.gallery import Material, drawn
from analysis.figures.layers import layers_figure, strips
from analysis.figures.overlap import overlap_figure, overlap_series
from analysis.figures.style import MOST_PANELS, THEMES
from analysis.figures.training import _palette, learning_curves, training_figure
from analysis.report.html import report_html, savings
from analysis.tables.parquet import Frames, as_rows
from analysis.tables.run_plan import Rule, RunPlan
from analysis.tables.schema import TABLES, table
from analysis.verdicts.claims import verdicts
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import (
    control_rows,
    dense,
    digits_like,
    drops,
    ladder,
    make_run,
    record,
    trial_rows,
    with_tables,
)

ACCURACY = drops({None: 0.965, 64: 0.964, 87.04: 0.966, 92.22: 0.948})
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOWN = ["differences", "accuracy", "training", "early_stop"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs"), digits_like(), ACCURACY)
    analysis.gather(folder)
    return folder


@pytest.fixture(scope="module")
def frames(run: Path) -> Frames:
    return analysis.load(run)


def overlaps(frames: Frames) -> Frames:
    """The tables with overlaps between seeds: IoU 0.5 and 0.3, by chance 0.2. Also a nested pair and a single layer."""
    names = [
        f"digits-lenet_300_100-imp-s{s}-r0-seed{k}" for s, k in ((64, 0), (64, 1), (64, 2), (87.04, 0), (87.04, 1))
    ]
    shared = {"run": "run", "between": "seed", "n_weights": 100, "n_kept_a": 36, "n_kept_b": 36, "n_both": 20}
    rows = [
        shared | {"trial_a": names[0], "trial_b": names[1], "iou": 0.5, "chance_iou": 0.2, "nested": False},
        shared | {"trial_a": names[0], "trial_b": names[2], "iou": 0.3, "chance_iou": 0.2, "nested": False},
        shared | {"trial_a": names[3], "trial_b": names[4], "iou": 0.9, "chance_iou": 0.1, "nested": True},
        shared | {"trial_a": names[0], "trial_b": names[1], "iou": 0.1, "chance_iou": 0.1, "layer": "1.weight"},
    ]
    return with_tables(frames, overlaps=table("overlaps", rows))


def test_training_curves_are_means_over_the_seeds_of_the_last_level(frames: Frames) -> None:
    done = frames.trials[frames.trials.seed == 0].head(2)
    epochs = pd.DataFrame({
        "trial": [done.trial.iloc[1]] * 4, "level": [0, 1, 1, 1], "epoch": [9, 3, 4, 5],
        "valid_accuracy": [0.1, 0.5, 0.6, 0.7],
    })  # fmt: skip
    (curve,) = learning_curves(with_tables(frames, epochs=epochs)).values()
    assert [level.mean for level in curve] == pytest.approx([50, 60, 70])
    everything = learning_curves(frames)
    group = frames.trials.group.iloc[0]
    mean = 100 * frames.trials[frames.trials.group == group].valid_accuracy.mean()
    assert everything[group][-1].mean == pytest.approx(mean)
    assert everything[group][-1].n == 5


def test_a_censored_early_stop_is_a_lower_bound_without_interval(frames: Frames) -> None:
    rows = as_rows(frames.trials)
    free = stops(rows)[rows[0]["group"]]
    assert (free.iteration.mean, free.n_censored) == (320, 0) and free.iteration.low is not None
    rows[0] = {**rows[0], "early_stop_censored": True}
    bound = stops(rows)[rows[0]["group"]]
    assert (bound.n_censored, bound.iteration.low) == (1, None)
    assert bound.accuracy.low is not None, "accuracy is known all the same"


def test_layers_that_are_as_sparse_as_the_whole_need_no_figure(frames: Frames) -> None:
    assert strips(frames) == [] and layers_figure(frames) is None


def test_a_strip_has_the_weights_of_each_layer(frames: Frames) -> None:
    """One layer of each ticket keeps twice as many of its weights as it did."""
    layers = frames.layers.copy()
    own = (layers["layer"] == "5.weight") & (layers["level"] > 0)
    layers.loc[own, "n_kept"] = 2 * layers.loc[own, "n_kept"]
    first, second = strips(with_tables(frames, layers=layers))
    assert (first.label, second.label) == ("rewind epoch 0", "rewind epoch 1")
    assert first.layers == ("1.weight", "3.weight", "5.weight")
    assert first.columns == pytest.approx([36, 12.96, 7.776], abs=0.01)
    expected = np.array([[36, 12.96, 7.776]] * 2 + [[72, 25.92, 15.552]])
    assert np.array(first.cells) == pytest.approx(expected, abs=0.1)
    assert layers_figure(with_tables(frames, layers=layers)) is not None


def test_overlap_is_of_all_layers_and_of_pairs_that_are_not_nested(frames: Frames) -> None:
    (series,) = overlap_series(overlaps(frames))["seed"]
    assert series.label == "rewind epoch 0"
    assert series.x == (36,) and series.iou == pytest.approx((0.4,)) and series.chance == pytest.approx((0.2,))
    assert [iou for _, iou in series.every] == [0.5, 0.3]
    assert overlap_figure(overlaps(frames)) is not None
    assert overlap_figure(frames) is None


def test_controls_are_curves_of_their_tickets() -> None:
    rows = trial_rows([*dense(), *ladder(64, 87.04)], ACCURACY)
    found = control_rows(rows, "random_mask", [2.0] * 5)
    tickets = [row for row in rows if row["control"] == "none"]
    for row, ticket in zip(found, tickets, strict=True):
        row |= {"role": "control", "parent": ticket["trial"], "group": row["trial"].rpartition("-")[0]}
    every = [*rows, *found]
    empty = {name: table(name, []) for name in TABLES if name not in ("trials", "verdicts")}
    judged = table("verdicts", verdicts(every, Rule()))
    tables = Frames(tables={"trials": table("trials", every), "verdicts": judged, **empty})
    (panel,) = curves.panels(tables)
    (curve,) = panel.curves
    (control,) = curve.controls
    assert control.label == "random mask"
    for (at, level), point in zip(control.points, curve.points, strict=True):
        assert at == pytest.approx(point.remaining_pct)
        assert level.mean == pytest.approx(point.level.mean - 2)


@pytest.fixture(scope="module")
def large() -> Frames:
    """A large grid: nine ladders of nine rungs, four controls per ticket, eight dense networks of other budgets."""
    targets = (20, 36, 50, 64, 75, 80, 87.04, 92.22, 95)
    tickets = [t for k in range(9) for t in ladder(*targets, seeds=2, schedule="omp", rewind_epoch=k)]
    every = [*dense(2), *(d for e in range(21, 29) for d in dense(2, epochs=e)), *tickets]
    rows = trial_rows(every, lambda spec: 0.9 - (spec.target_sparsity_pct or 0) / 300)
    controls = [
        row | {"role": "control", "parent": row["trial"].replace(f"-{name}", ""), "group": row["trial"][:-6]}
        for i, name in enumerate(("random_mask", "layerwise_shuffle", "reinit", "random_sparse"))
        for row in control_rows(rows, name, [2.0 + i] * 2)
    ]
    judged = table("verdicts", verdicts([*rows, *controls], Rule()))
    empty = {name: table(name, []) for name in TABLES if name not in ("trials", "verdicts")}
    return Frames(tables={"trials": table("trials", [*rows, *controls]), "verdicts": judged, **empty})


def test_a_large_grid_has_a_figure_that_fits_a_page(large: Frames) -> None:
    figure = accuracy_figure(large)
    _, height = figure.get_size_inches()
    assert height <= 6, "of a printed page, with room for its caption"
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert min(box.y0 for box in boxes) >= 0 and max(box.y1 for box in boxes) <= figure.bbox.height
    assert max(box.x1 for box in boxes) <= figure.bbox.width
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "dense, 8 other budgets" in words and "random mask" not in words
    looks = {
        (line.get_color(), str(line.get_linestyle())) for line in figure.axes[0].lines if line.get_linewidth() == 1.6
    }
    assert len(looks) == 9, "ladders are told apart by colour and dashes"


def test_controls_of_a_large_grid_have_a_figure_of_their_own(large: Frames, frames: Frames) -> None:
    figure = controls_figure(large)
    assert figure is not None and len(figure.axes) == MOST_PANELS
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == [
        "tickets", "random mask", "shuffled mask", "reinitialisation", "random sparse network", "dense",
    ]  # fmt: skip
    assert controls_figure(frames) is None, "none has any, or they are in the figure of accuracy"


def test_sparsities_beyond_the_palette_have_colours_of_their_own(large: Frames) -> None:
    shown = curves.ladders(large)[:1]
    palette = _palette(shown, THEMES["light"])
    assert len(palette) == len(set(palette.values())) == 9
    few = [dataclasses.replace(shown[0], rungs=shown[0].rungs[:3])]
    assert list(_palette(few, THEMES["dark"]).values()) == list(THEMES["dark"].series[:3])


def test_a_curve_goes_from_many_weights_to_few(large: Frames) -> None:
    """In any order of the verdicts, which list the tickets and the baselines of a ladder separately."""
    mixed = with_tables(large, verdicts=large.verdicts.iloc[::-1])
    for ladder_ in curves.ladders(mixed):
        left = [rung.remaining_pct for rung in ladder_.rungs]
        assert left == sorted(left, reverse=True)
    for curve in curves.panels(mixed)[0].curves:
        left = [point.remaining_pct for point in curve.points]
        assert left == sorted(left, reverse=True)


def test_a_run_of_a_search_has_its_front(frames: Frames) -> None:
    rows = [
        {
            "suggestion": i,
            "status": "done",
            "on_front": i == 1,
            "valid_accuracy": 0.9 + i / 100,
            "sparsity_pct": 80.0 + i,
        }
        for i in range(2)
    ]
    assert [name for name, *_ in drawn(Material(frames=frames, suggestions=rows), "light")][:3] == [
        "differences",
        "accuracy",
        "pareto",
    ]


def test_savings_are_sums_of_the_tables(tmp_path: Path) -> None:
    specs = dense(2)
    frames = analysis.gather(make_run(tmp_path, specs, ACCURACY))
    assert len(frames.epochs) == 2, "a row for each trial"
    frames = with_tables(frames, trials=frames.trials.assign(epochs_total=1))
    alone = savings(frames)
    assert (alone.epochs_own, alone.epochs_distinct, alone.epochs_saved_pct) == (2, 2, 0)
    shared = frames.epochs.assign(trained_by=frames.epochs.trained_by.iloc[0])
    work = savings(with_tables(frames, epochs=shared))
    assert (work.n_trials, work.epochs_alone, work.epochs_distinct) == (2, 2, 1)
    assert work.epochs_own == 1 and work.epochs_saved_pct == pytest.approx(50)
    assert work.seconds_own == pytest.approx(alone.seconds_own / 2) and work.seconds_own > 0
    assert work.flops_dense == pytest.approx(2 * record(specs[0], 0.9)["result"]["flops_dense"])


def test_savings_count_what_a_trial_had_trained_before_it_was_interrupted(tmp_path: Path) -> None:
    frames = analysis.gather(make_run(tmp_path, dense(2), ACCURACY))
    resumed = with_tables(frames, trials=frames.trials.assign(epochs_trained=0, train_seconds=0.0))
    assert (savings(resumed).epochs_own, savings(resumed).seconds_own) == (
        savings(frames).epochs_own,
        savings(frames).seconds_own,
    )


def test_nothing_finished_gives_the_figure_that_says_so(tmp_path: Path) -> None:
    specs: list[TrialSpec] = [*dense(), *ladder(64)]
    frames = analysis.gather(make_run(tmp_path, specs, ACCURACY, skip=[spec.name for spec in specs]))
    assert [name for name, *_ in drawn(Material(frames=frames), "light")] == ["accuracy"]
    assert training_figure(frames) is None


@pytest.mark.parametrize(("kind", "starts"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_command_writes_the_same_bytes_twice(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, starts: bytes
) -> None:
    for folder in ("a", "b"):
        assert main(["figures", str(run), "--format", kind, "--out", str(tmp_path / folder), "--json"]) == 0
    written = json.loads(capsys.readouterr().out.splitlines()[0])
    assert list(written) == SHOWN
    for name, path in written.items():
        content = Path(path).read_bytes()
        assert content.startswith(starts)
        assert content == (tmp_path / "b" / f"{name}.{kind}").read_bytes()


def test_the_commands_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["figures", str(run), "--out", str(tmp_path / "file")]) == 2
    assert main(["figures", str(tmp_path / "nowhere")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "choose another folder" in errors[0] and "the folder of a run" in errors[1]


@pytest.mark.parametrize(("scheme", "dark"), [(1, False), (0, True)])
def test_a_browser_shows_the_figures_without_complaint(run: Path, tmp_path: Path, scheme: int, dark: bool) -> None:
    """Open a copy of the page with a script that measures each figure."""
    measure = """<script>document.title = JSON.stringify([getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll("figure")].map(figure => {
        const box = figure.querySelector("svg").getBoundingClientRect();
        const lines = [...figure.querySelectorAll("path")].map(path => getComputedStyle(path));
        return [figure.id, Math.round(box.width), Math.round(box.height),
                lines.filter(line => /^rgb/.test(line.stroke) || /^rgb/.test(line.fill)).length];
    })])</script></body>"""
    title, said = opened(tmp_path, (run / "report.html").read_text().replace("</body>", measure), 1200, scheme)
    background, *figures = json.loads(title)
    assert background == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
    assert [name for name, *_ in figures] == [f"figure-{name}" for name in SHOWN]
    assert all(width > 600 and height > 100 and lines > 10 for _, width, height, lines in figures)
    assert "CONSOLE" not in said


@pytest.mark.parametrize(
    ("media", "width"),
    [("screen", 420), pytest.param("screen", 1200, marks=pytest.mark.slow), ("print", 718)],
)
def test_nothing_runs_off_the_page(large: Frames, tmp_path: Path, media: str, width: int) -> None:
    """At the width of a phone, of a window, and of A4 paper without margins, where the rules for print apply."""
    no_plan = RunPlan(recipe="digits", claim="?", commands=(), versions={}, rule=Rule(), trials=())
    page = report_html(large, no_plan, "run")
    measure = """<script>document.title = JSON.stringify([innerWidth, document.documentElement.scrollWidth,
        ...[...document.querySelectorAll("table")].map(table => Math.ceil(table.getBoundingClientRect().right))
    ])</script></body>"""
    if media == "print":
        page = page.replace("@media print", "@media all").replace("@media screen", "@media not all")
    title, _ = opened(tmp_path, page.replace("</body>", measure), width, 1)
    at, wide, *tables = json.loads(title)
    assert wide <= at, "the page does not scroll sideways"
    assert len(tables) > 2 and (width == 420 or max(tables) <= at), "tables may, within their frame, where it is narrow"


@pytest.mark.parametrize("width", [390, pytest.param(800, marks=pytest.mark.slow)])
def test_the_verdict_and_the_whole_figure_are_in_sight(large: Frames, tmp_path: Path, width: int) -> None:
    """On a telephone and on a tablet: without scrolling sideways, in letters that can be read."""
    no_plan = RunPlan(recipe="digits", claim="?", commands=(), versions={}, rule=Rule(), trials=())
    page = html.escape(report_html(large, no_plan, "run").replace("<details", "<details open"))
    measure = """<script>window.onload = () => {
        const inner = document.querySelector("iframe"), page = inner.contentDocument;
        const seen = found => [...page.querySelectorAll(found)].map(each => each.getBoundingClientRect())
            .filter(box => box.width > 0);
        const scale = [...page.querySelectorAll("figure svg")].filter(each => each.clientWidth > 0)
            .map(each => each.getBoundingClientRect().width / each.viewBox.baseVal.width);
        document.title = JSON.stringify([inner.contentWindow.innerWidth, page.documentElement.scrollWidth,
            seen("td.verdict").length, Math.ceil(Math.max(...seen("td.verdict").map(box => box.right))),
            seen("figure svg").length, Math.ceil(Math.max(...seen("figure svg, figure text").map(box => box.right))),
            Math.min(...scale)]);
    }</script>"""
    outer = f'<title>?</title><iframe style="width: {width}px; height: 3000px; border: 0" srcdoc="{page}"></iframe>'
    title, _ = opened(tmp_path, f"<!doctype html><body>{outer}{measure}</body>", 1200, 1)
    at, wide, n_verdicts, verdicts_to, n_figures, figures_to, scale = json.loads(title)
    assert at == width and wide <= width, "the page does not scroll sideways"
    assert n_verdicts > 81 and verdicts_to <= width
    assert n_figures == page.count("&lt;figure ") and figures_to <= width
    assert scale * 9 >= 8, "pixels of CSS, for letters of 9 pt"


def opened(folder: Path, page: str, width: int, scheme: int) -> tuple[str, str]:
    """The title of the page in a browser, and the messages of the browser. Skips the test if there is no browser."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    (folder / "page.html").write_text(page)
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000",
        f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", (folder / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found is not None
    return found[1], done.stderr


def test_every_link_of_the_report_has_its_place(run: Path) -> None:
    page = (run / "report.html").read_text()
    links = re.findall(r'<a href="#([^"]+)">', page)
    assert (
        {"verdicts", "claims", "about-training", "trials", "repeat"}
        <= set(links)
        <= set(re.findall(r'id="([^"]+)"', page))
    )
