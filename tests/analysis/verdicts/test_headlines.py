"""The headline of a comparison, and the answer of a run in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from analysis.tables import schema
from analysis.tables.run_plan import Rule
from analysis.verdicts.answer import answer_sentence
from analysis.verdicts.claims import verdicts
from analysis.verdicts.headlines import headlines
from tests.support.records import dense, ladder, paired, trial_rows
from tests.support.verdicts import BELOW, RULE, SAME, SLIGHTLY_LOWER, UP, VAGUE, Rows, judge, of

LOWER = "within the margin, lower"


@pytest.mark.parametrize(
    ("differences", "word", "lower"),
    [(UP, "beats", False), (SAME, "matches", False), (SLIGHTLY_LOWER, LOWER, True), (BELOW, "falls short", True),
     (VAGUE, "undecided", False), ([-1.4, -0.5, -1.2, -0.8, -0.9], "undecided", True)],
    ids=["up", "same", "lower", "below", "vague", "lower by an open amount"],
)  # fmt: skip
def test_the_table_has_the_headline_in_both_of_its_rows(differences: list[float], word: str, lower: bool) -> None:
    rows = judge({50: differences})
    found = [(row["headline"], row["shown_lower"]) for claim in ("matches", "beats") for row in of(rows, claim)]
    assert found == [(word, lower)] * 2
    (line,) = headlines(rows)
    assert (line["verdict"], line["shown_lower"]) == (word, lower)
    stored = schema.table("verdicts", rows).to_pylist()
    assert [row["headline"] for row in stored if row["claim"] not in ("matches", "beats")] == [None] * (len(rows) - 2)


def test_a_lower_ticket_says_so_in_its_reason() -> None:
    (line,) = headlines(judge({50: SLIGHTLY_LOWER}))
    assert line["why"] == "at most 1 pp below dense (p < 0.001), and lower (95 % interval below 0)"
    (line,) = headlines(judge({50: [-1.4, -0.5, -1.2, -0.8, -0.9]}))
    assert line["why"].startswith("shown lower; ")


def test_lower_needs_no_correction_as_matches_does() -> None:
    """Six comparisons: one alone is below zero. Its interval says so; "no" to "beats" needs Holm."""
    d = [-0.9, -0.2, -0.7, -0.1, -0.6]
    rows = judge({50: SAME, 60: SAME, 64: SAME, 70: SAME, 80: SAME, 90: d}, Rule(margin_pp=2.0))
    beating, line = of(rows, "beats")[-1], headlines(rows)[-1]
    assert (beating["verdict"], line["verdict"], line["shown_lower"]) == ("undecided", LOWER, True)
    assert beating["p_against"] <= 0.025 < beating["p_against_decisive"] and line["ci_high"] < 0


def two_ladders(first: Sequence[float], second: Sequence[float]) -> Rows:
    tickets = [spec for k in (0, 1) for spec in ladder(64, 87.04, rewind_epoch=k)]
    seconds = {spec.name: (first, second)[spec.rewind_epoch or 0] for spec in tickets}

    rows = trial_rows([*dense(), *tickets], paired(95.0, {64: SAME, 87.04: BELOW}))
    base = {row["seed"]: row["test_accuracy"] for row in rows if row["control"] == "dense"}
    for row in rows:
        if row["target_sparsity_pct"] == 64:
            row["test_accuracy"] = base[row["seed"]] + seconds[row["trial"]][row["seed"]] / 100
    return verdicts(rows, RULE)


def test_the_answer_names_the_best_and_the_worst_rewind_point_and_how_many_are_lower() -> None:
    assert answer_sentence(two_ladders(SLIGHTLY_LOWER, SAME)) == (
        "The best tickets (rewind epoch 1) match the dense network down to 36 % of the weights (+0.02 pp, 95 % "
        "interval −0.22 to +0.26, 5 seeds); the worst (rewind epoch 0) stay within the margin of 1 pp down to 36 % "
        "of the weights, but are shown to be lower there (−0.46 pp, 95 % interval −0.60 to −0.32, 5 seeds); 3 of 4 "
        "comparisons are shown lower than dense, 2 more than the margin lower."
    )


def test_the_answer_names_a_rewind_point_that_matches_nowhere() -> None:
    sentence = answer_sentence(two_ladders(VAGUE, UP))
    assert sentence.startswith("The best tickets (rewind epoch 1) beat the dense network at 36 % of the weights (+1.70")
    assert (
        "the worst (rewind epoch 0) are not shown to match it at any sparsity (36 % of the weights: −0.50 pp"
        in sentence
    )


def test_where_nothing_matches_the_answer_names_the_nearest() -> None:
    sentence = answer_sentence(two_ladders(VAGUE, BELOW))
    assert sentence.startswith(
        "No ticket is shown to match the dense network; the nearest ones (rewind epoch 0, 36 % of the weights) differ "
    )


def test_of_equal_sparsities_one_that_matches_is_better_than_one_that_is_shown_lower() -> None:
    """Although its mean is less: -0.3 with hardly a spread is shown lower, -0.32 with more of it is not."""
    lower, matches = [-0.3, -0.31, -0.29, -0.3, -0.3], [-0.6, 0.1, -0.6, 0.1, -0.6]
    sentence = answer_sentence(two_ladders(lower, matches))
    assert sentence.startswith("The best tickets (rewind epoch 1) match the dense network down to 36 %")
    assert "the worst (rewind epoch 0) stay within the margin of 1 pp down to 36 % of the weights, but" in sentence
