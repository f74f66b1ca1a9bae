"""A run in the terminal: the table of verdicts, other claims, the answer in a sentence, what is not done."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import analysis
from analysis.__main__ import main
from analysis.report.terminal import claims_table, status_line, verdict_view
from analysis.tables import schema
from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from tests.support.records import (
    DIGITS,
    Accuracy,
    control_rows,
    dense,
    drops,
    ladder,
    make_run,
    paired,
    trial_rows,
    tutorial,
    with_early_stop,
    without_early_stop,
)


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
    found = schema.table("verdicts", verdicts(rows, Rule(alpha=0.05))).to_pylist()
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
    rows = [line for line in text.splitlines() if line.startswith(("column, global, updating", "magnitude increase"))]
    assert len(rows) == 2


def other_claims(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the table of other claims, without title and headings."""
    verdict_rows = verdicts(rows, Rule(margin_pp=1.0, alpha=0.05))
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
        "beats random mask       yes 50, 80 %", "beats reinitialisation  undecided 80 % (7 to more than 100 seeds)",
        "faster than dense       yes 50, 80 %",
    ]  # fmt: skip
    assert re.fullmatch(r"winning                 undecided 80 % \(\d+ to more than 100 seeds\)", lines[3])
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
            r"^The tickets match the dense network down to 36 % of the weights \(.*; 1 of 2 comparisons is shown lower",
        ),
        ({None: 0.90, 64: 0.95, 87.04: 0.95}, 5, r"^The tickets beat the dense network at 13 % of the weights"),
        (
            {None: 0.95, 64: 0.80, 87.04: 0.70},
            5,
            r"^No ticket is shown .*; 2 of 2 comparisons are shown lower than dense, 2 more than the margin lower\.$",
        ),
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
    assert (
        "runs/digits/analysis/{trials,epochs,levels,layers,overlaps,signs,verdicts,variances,published}.parquet" in text
    )


def test_undecided_rows_share_a_line_unless_details_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tickets = [t for k in (0, 1) for t in ladder(64, 87.04, 92.22, seeds=2, rewind_epoch=k)]
    run = make_run(tmp_path, [*dense(2), *tickets], DIGITS)
    assert main([str(run)]) == main([str(run), "--details"]) == 0
    short, long = capsys.readouterr().out.split("digits, LeNet-300-100, IMP: ")[1:]
    (line,) = [line for line in short.splitlines() if "undecided:" in line]
    assert line.split("  ")[0] == "rewind epoch 0 and 1" and "64 to 92.22 %" in line and "6 undecided" in line
    assert f"{run} --details" in short and "--details" not in long
    assert long.count("undecided: needs at least 5 seeds, has 2") == 6
    page = (run / "report.html").read_text()
    before, details = page.split("All 6 comparisons, one by one")
    assert before.count(">6 undecided<") == 1 and details.split("</details>")[0].count(">undecided<") == 6


def test_status_line_of_an_empty_run(tmp_path: Path) -> None:
    accuracy: Accuracy = DIGITS
    assert status_line(analysis.gather(make_run(tmp_path, [], accuracy))) == "0 trials: none planned"
