"""What people see of a run: figure, report, table in the terminal, answer."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

import analysis
from analysis import labels
from analysis import text as text_of
from analysis.figures import curves
from analysis.figures import spacing as layout
from analysis.figures.accuracy import accuracy_figure
from analysis.figures.style import to_png, to_svg
from analysis.report.html import inline_svg
from analysis.report.terminal import claims_table, status_line, verdict_view
from analysis.tables import schema
from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from lth_trainable.errors import UserError
from tests.support.records import (
    Accuracy,
    control_rows,
    dense,
    digits_like,
    drops,
    ladder,
    make_run,
    paired,
    trial_rows,
    with_early_stop,
    with_tables,
    without_early_stop,
)
from tests.support.svg import texts

DIGITS = drops({None: 0.965, 64: 0.964, 87.04: 0.966, 92.22: 0.948})
ITERATIVE = {"schedule": "iterative", "start_pct": 0.25}


def tutorial(tmp_path: Path) -> Path:
    specs = [*dense(), *dense(epochs=5), *(t for k in (0, 1) for t in ladder(50, 95, rewind_epoch=k, **ITERATIVE))]
    return make_run(tmp_path, specs, drops({None: 0.965, 50: 0.93, 95: 0.31}))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe digits in which one trial failed, one diverged and one is missing."""
    failed, diverged, missing = (digits_like()[i] for i in (6, 12, 18))

    def accuracy(spec: object) -> float | None:
        return None if spec == diverged else DIGITS(spec)  # type: ignore[arg-type]

    run = make_run(tmp_path_factory.mktemp("runs"), digits_like(), accuracy, skip=[failed.name, missing.name])
    folder = run / "trials" / failed.name
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps({"reason": "<script>alert('no')</script>", "traceback": ""}))
    analysis.gather(run)
    return run


# -- the figure --------------------------------------------------------------------------------------------------------


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


# -- the report --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, ids and text of a page. Checks that tags are nested correctly."""

    VOID = frozenset({"meta", "br", "path", "use", "rect", "circle", "line"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_self_contained(digits: Path) -> None:
    html = (digits / "report.html").read_text()
    assert not re.search(r"(https?:)?//\w", html), "no address outside the file"
    page = Page(html)
    assert not page.open
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == 4, "accuracy, training, early stop, layers"
    assert len(page.ids) == len(set(page.ids)), "two figures on one page must not share ids"
    assert not re.search(r"(fill|stroke): #[0-9a-f]{6}", html.split("<body>")[1]), "colours follow the theme"
    assert "prefers-color-scheme: dark" in html


def test_references_within_the_figures_resolve(digits: Path) -> None:
    html = (digits / "report.html").read_text()
    targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert targets
    assert {one or other for one, other in targets} <= set(Page(html).ids)


def test_the_report_has_question_answer_trials_and_command(digits: Path) -> None:
    frames = analysis.load(digits)
    html = (digits / "report.html").read_text()
    text = " ".join(Page(html).text.split())
    assert "At which sparsity do winning tickets stop matching the dense network?" in text
    assert analysis.answer(frames.verdicts) in text
    assert "python -m sweeps.lth_grid digits --seeds 5" in text
    assert "torch 2.14.1" in text
    assert "35 trials: 32 done, 1 diverged, 1 failed, 1 missing" in text
    assert all(name in text for name in frames.trials.trial)
    assert "4 of 5" in text
    assert "<script>alert" not in html, "what a trial says is text"
    assert "<script>alert('no')</script>" in text


def test_the_recipes_own_question_is_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*dense(), *ladder(64)], DIGITS, claim="Do tickets & dense agree?")
    analysis.gather(run)
    assert "Do tickets &amp; dense agree?" in (run / "report.html").read_text()


def test_inline_svg_loses_what_html_does_not_need() -> None:
    svg = b"""<?xml version="1.0"?><!DOCTYPE svg>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="10pt" height="5pt" viewBox="0 0 1 1"
 xmlns="http://www.w3.org/2000/svg"><metadata><x/></metadata>
<defs><path id="m1"/></defs><use xlink:href="#m1" clip-path="url(#m1)" style="stroke: #0072b2"/></svg>"""
    assert inline_svg(svg, "dark") == (
        '<svg viewBox="0 0 1 1"><defs><path id="dark-m1" /></defs><use xlink:href="#dark-m1" '
        'clip-path="url(#dark-m1)" style="stroke: var(--figure-series-0)" /></svg>'
    )


# -- the terminal ------------------------------------------------------------------------------------------------------


def printed(run: Path, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(analysis.verdict_table(analysis.gather(run).verdicts))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_fits_a_hundred_columns_and_cuts_nothing(tmp_path: Path) -> None:
    text = printed(tutorial(tmp_path), width=160)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for part in ("rewind epoch 0", "rewind epoch 1", "20 epochs", "5 epochs", "95 %", "falls short"):
        assert part in text
    lines = [line for line in text.splitlines() if "epochs" in line]
    assert ["20 epochs" in line for line in lines] == [True] * 4 + [False] * 4, "primary comparisons first"


@pytest.mark.parametrize("width", [80, 99])
def test_a_narrow_terminal_has_each_ladder_under_a_line_of_its_own(tmp_path: Path, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(verdict_view(analysis.gather(tutorial(tmp_path)).rows("verdicts"), console.width))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert lines.count("rewind epoch 0") == lines.count("rewind epoch 1") == 1
    assert lines.count("rewind epoch 0, against other dense networks") == 1
    assert len([line for line in lines if " %  20 epochs" in line]) == 4
    heading = next(line for line in lines if "difference" in line)
    starts = [line.index("[") for line in lines if " % " in line and "[" in line]
    assert len(set(starts)) <= 2 and min(starts) > heading.index("difference"), "numbers below each other"


def test_baselines_have_a_section_of_their_own() -> None:
    specs = [*dense(), *ladder(64), *ladder(64, schedule="omp")]
    rows = [row | {"role": "baseline"} if row["schedule"] == "omp" else row for row in trial_rows(specs, DIGITS)]
    found = schema.table("verdicts", verdicts(rows, Rule())).to_pylist()
    for width, wanted in ((100, "baselines"), (80, "baseline OMP")):
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(verdict_view(found, width))
        assert isinstance(console.file, io.StringIO)
        lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
        assert any("IMP" in line for line in lines[: lines.index(wanted)])


def test_long_names_wrap(tmp_path: Path) -> None:
    fields = {"criterion": "updating_magnitude_increase", "granularity": "column", "context": "global"}
    text = printed(make_run(tmp_path, [*dense(), *ladder(64), *ladder(64, **fields)], DIGITS), width=120)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    rows = [line for line in text.splitlines() if line.startswith(("column, global, updating magnitude", "increase"))]
    assert len(rows) == 2


def other_claims(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the table of other claims, without title and headings."""
    verdict_rows = verdicts(rows, Rule(margin_pp=1.0))
    found = schema.table("verdicts", verdict_rows).to_pylist()
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(claims_table(found))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()[2:]]


def test_other_claims_are_a_line_each_and_only_those_with_trials() -> None:
    rows = trial_rows([*dense(), *ladder(50, 80, schedule="omp")], paired(95.0, {50: [0.1] * 5, 80: [0, 1, 0, 1, 0]}))
    assert other_claims(without_early_stop(rows)) == []
    rows = with_early_stop(rows, [100, 120, 100, 140, 80], [200, 180, 220, 200, 200])
    rows += control_rows(rows, "random_mask", [1.5, 1.8, 1.6, 1.9, 1.7])
    rows += control_rows(
        [row for row in rows if row["target_sparsity_pct"] == 80], "reinit", [0.9, -0.4, 0.5, -0.2, 0.6]
    )
    lines = other_claims(rows)
    assert lines[:3] == [
        "beats random mask       yes 50, 80 %", "beats reinitialisation  undecided 80 % (about 26 seeds)",
        "faster than dense       yes 50, 80 %",
    ]  # fmt: skip
    assert re.fullmatch(r"winning                 undecided 80 % \(about \d+ seeds\)", lines[3])
    assert len(lines) == 4


def test_other_claims_name_the_ladder_where_there_are_several() -> None:
    rows = trial_rows([*dense(), *(t for k in (0, 1) for t in ladder(50, rewind_epoch=k))], lambda spec: 0.9)
    rows = without_early_stop(rows)
    lines = other_claims(rows + control_rows(rows, "reinit", [1.5, 1.8, 1.6, 1.9, 1.7]))
    assert lines == [
        "beats reinitialisation  rewind epoch 0  yes 64 %", "                        rewind epoch 1  yes 64 %",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("accuracies", "seeds", "expected"),
    [
        (
            {None: 0.95, 64: 0.95, 87.04: 0.80},
            5,
            r"^The sparsest tickets shown to match .* keep 36 % of the weights \(IMP",
        ),
        ({None: 0.90, 64: 0.95, 87.04: 0.95}, 5, r"^The sparsest tickets shown to beat .* keep 13 % of the weights"),
        ({None: 0.95, 64: 0.80, 87.04: 0.70}, 5, r"^No ticket is shown .*; all 2 comparisons fall short\.$"),
        ({None: 0.95, 64: 0.80, 87.04: 0.70}, 3, r"^Undecided: none of the 2 .* \(needs at least 5 seeds, has 3\)\.$"),
    ],
)
def test_the_answer_in_a_sentence(tmp_path: Path, accuracies: dict, seeds: int, expected: str) -> None:
    specs = [*dense(seeds), *ladder(64, 87.04, seeds=seeds)]
    sentence = analysis.answer(analysis.gather(make_run(tmp_path, specs, drops(accuracies))).verdicts)
    assert re.search(expected, sentence), sentence


def test_show_names_what_is_not_done_and_where_the_files_are(digits: Path) -> None:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    analysis.show(console, analysis.load(digits), "runs/digits")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "35 trials: 32 done, 1 diverged, 1 failed, 1 missing" in text
    assert re.search(r"failed: digits-lenet_300_100-imp-s64-r0-seed1: <script>", text)
    assert "runs/digits/report.html" in text
    assert "runs/digits/analysis/{trials,epochs,levels,layers,overlaps,signs,verdicts}.parquet" in text


def test_status_line_of_an_empty_run(tmp_path: Path) -> None:
    accuracy: Accuracy = DIGITS
    assert status_line(analysis.gather(make_run(tmp_path, [], accuracy))) == "0 trials: none planned"


# -- words -------------------------------------------------------------------------------------------------------------


def test_labels_tell_apart_and_no_more() -> None:
    names = [f"digits-lenet_300_100-{rest}" for rest in ("imp-r0", "imp-r1", "agp", "imp-r0-p20-global")]
    assert list(labels.short_labels(names).values()) == [
        "IMP, rewind epoch 0", "IMP, rewind epoch 1", "AGP", "IMP, rewind epoch 0, 20 % per level, global",
    ]  # fmt: skip
    assert labels.short_labels(names[:2]) == {names[0]: "rewind epoch 0", names[1]: "rewind epoch 1"}
    assert labels.short_labels(names[:1]) == {names[0]: "IMP, rewind epoch 0"}
    assert labels.short_labels([names[0], names[3]])[names[0]] == "IMP"
    assert labels.common_label(names) == "digits, LeNet-300-100"


@pytest.mark.parametrize(
    ("value", "text"), [(100, "100"), (36.0, "36"), (12.96, "13"), (9.96, "10"), (7.776, "7.8"), (0.536, "0.54")]
)
def test_per_cent_has_two_digits(value: float, text: str) -> None:
    assert text_of.percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.333, "+0.33"), (-1.5, "\u22121.50"), (-0.001, "0.00")])
def test_signed(value: float, text: str) -> None:
    assert text_of.signed(value) == text
