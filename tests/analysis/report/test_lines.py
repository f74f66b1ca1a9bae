"""Lines of a table of verdicts: undecided rows that follow each other share one."""

from __future__ import annotations

from typing import Any

from analysis.report.lines import (
    differ_in_numbers,
    differences,
    every_row,
    folded,
    joined,
    reason,
    seeds,
    sparsities,
    tickets,
    verdict,
)

LABELS = {"a": "rewind epoch 0", "b": "rewind epoch 1", "c": "OMP"}


def row(ladder: str, target: float, found: str = "undecided", **others: Any) -> dict[str, Any]:
    return {
        "ladder": ladder, "target_sparsity_pct": target, "verdict": found, "claim": "matches", "role": "ticket",
        "primary": True, "kind": "dense", "baseline": "dense-e20", "n_pairs": 3, "n_unpaired": 0,
        "effect": -target / 100, "ci_low": None, "why": "needs at least 5 seeds, has 3",
    } | others  # fmt: skip


def test_ladders_that_are_undecided_throughout_are_one_line() -> None:
    (line,) = folded([row(ladder, target) for ladder in "ab" for target in (64, 87.04, 92.22)])
    assert (tickets(line, LABELS), sparsities(line), seeds(line)) == ("rewind epoch 0 and 1", "64 to 92.22", "3")
    assert (differences(line), verdict(line)) == ("means −0.92 to −0.64", "6 undecided")
    assert reason(line) == "needs at least 5 seeds, has 3"


def test_a_decided_row_keeps_its_place_and_its_ladder_to_itself() -> None:
    rows = [
        row("a", 50, "matches"), *(row("a", target) for target in (64, 80, 90)),
        *(row("b", target) for target in (50, 64)), row("c", 50),
    ]  # fmt: skip
    assert [(tickets(line, LABELS), sparsities(line), len(line)) for line in folded(rows)] == [
        ("rewind epoch 0", "50", 1), ("rewind epoch 0", "64 to 90", 3), ("rewind epoch 1 and OMP", "50 to 64", 3),
    ]  # fmt: skip
    assert [line[0] for line in every_row(rows)] == rows


def test_two_rows_and_other_comparisons_are_not_brought_together() -> None:
    rows = [row("a", 50), row("a", 64), row("a", 50, kind="dense_restarts"), row("b", 50, role="baseline")]
    assert [len(line) for line in folded(rows)] == [1, 1, 1, 1]


def test_a_line_says_what_would_decide_its_rows() -> None:
    ranges = ("14 to 90", "9 to more than 100", "40 to 60")
    needed = [row("a", n, why=f"{seeds} seeds would decide at 80 % power") for n, seeds in enumerate(ranges)]
    assert reason(tuple(needed)) == "9 to more than 100 seeds would decide at 80 % power"
    assert joined(["more than 100 seeds", "more than 100 seeds"]) == "more than 100 seeds"
    assert joined(["7 seeds", "more than 100 seeds"]) == "7 to more than 100 seeds"
    assert differ_in_numbers(["7 seeds", "20 to 90 seeds"]) and not differ_in_numbers(["7 seeds", "train longer"])
    mixed = (*needed, row("a", 90, why="the ladder stopped at 87.04 %"))
    assert reason(mixed) == (
        "9 to more than 100 seeds would decide at 80 % power (3 of 4); the ladder stopped at 87.04 % (1 of 4)"
    )


def test_seeds_of_unequal_rows_are_a_range() -> None:
    assert seeds((row("a", 50, n_pairs=3), row("a", 64, n_pairs=5))) == "3 to 5"
    assert seeds((row("a", 50, n_unpaired=2), row("a", 64, n_unpaired=2))) == "3 of 5"
