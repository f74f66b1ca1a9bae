"""The HTML report: self-contained, with question, answer, trials and command."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import analysis
from analysis.report import views
from analysis.report.html import inline_svg
from analysis.report.lines import NOTHING
from tests.support.records import DIGITS, around, dense, ladder, make_run


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
    assert page.tags.count("svg") == 8, "differences, accuracy, training, early stop: for wide and for narrow screens"
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


def test_a_p_value_of_one_is_not_printed() -> None:
    """Corrected p values end at 1."""
    row = {"verdict": "undecided", "p_decisive": 1.0, "p_against_decisive": 0.02}
    assert views._p_of(row) is None and views._p_of({**row, "verdict": "no"}) == 0.02
    assert views._p_of({**row, "p_decisive": 0.9}) == 0.9


def test_means_in_different_units_are_no_range() -> None:
    """Of a claim with several parts each row has the unit of the part that decided."""
    row = {"claim": "winning", "effect": -1530.0, "unit": "iterations"}
    same, other = {**row, "effect": 40.0}, {**row, "effect": 0.4, "unit": "percentage points"}
    assert views._effect((row, same)) == "means \u22121530.00 to +40.00 iterations"
    assert views._effect((row, other)) == NOTHING
    assert views._effect((row, {**other, "effect": None})) == "means \u22121530.00 iterations"


def test_the_report_says_why_an_interval_within_the_margin_may_decide_nothing(tmp_path: Path) -> None:
    tickets = [spec for k in (0, 1) for spec in ladder(64, rewind_epoch=k, seeds=8)]
    run = make_run(tmp_path, [*dense(8), *tickets], around(0.95))
    analysis.gather(run)
    page = (run / "report.html").read_text()
    assert "a ticket can be undecided although its whole interval lies above minus" in " ".join(page.split())
