"""The verdicts as a table for a paper."""

from __future__ import annotations

import csv
import io

import pytest

from analysis.commands.table import COLUMNS, HEADINGS, as_csv, as_latex, as_markdown
from analysis.tables.schema import Row
from analysis.verdicts.headlines import headlines
from tests.support.verdicts import judge

DIFFERENCES = {64.0: [0.1, 0.2, 0.0, 0.1, 0.2], 90.0: [-5.0, -4.0, -6.0, -5.0, -5.5]}


@pytest.fixture
def rows() -> list[Row]:
    found = headlines(judge(DIFFERENCES))
    assert [row["target_sparsity_pct"] for row in found] == [64.0, 90.0]
    return list(found)


def test_csv_has_all_digits_under_the_names_of_the_columns(rows: list[Row]) -> None:
    first, second = csv.DictReader(io.StringIO(as_csv(rows)))
    assert tuple(first) == COLUMNS
    assert float(first["effect"]) == rows[0]["effect"] and float(second["mean_ticket"]) == rows[1]["mean_ticket"]
    assert second["verdict"] == "falls short"


def test_markdown_has_a_cell_for_each_heading(rows: list[Row]) -> None:
    *lines, blank, rule = as_markdown(rows).splitlines()
    assert blank == "" and rule.startswith("Means of test accuracy in percent") and "less than 1 pp below" in rule
    assert len(lines) == 4 and {line.count(" | ") for line in lines} == {len(HEADINGS) - 1}
    assert lines[2].split(" | ")[1] == "64" and "+0.12" in lines[2] and lines[3].endswith("| falls short |")


def test_latex_escapes_what_has_a_meaning_there(rows: list[Row]) -> None:
    text = as_latex([{**rows[1], "baseline": "a_b & 50 %"}])
    assert r"\& 50 \%" in text and r"sparsity, \%" in text and "$-$5.10" in text and "−" not in text
    rule, begin = text.splitlines()[:2]
    assert rule.startswith("% Means of test accuracy") and "at level 0.05" in rule
    assert begin == r"\begin{tabular}{lrrrrrrrrl}" and text.count("toprule") == 1
