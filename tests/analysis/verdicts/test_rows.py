"""The rows of claims: their numbers, the reasons that they give, the seeds that would decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats import paired as stats
from analysis.stats.power import SeedsRange, effect_interval, seeds_needed
from analysis.tables import schema
from analysis.tables.run_plan import Rule
from analysis.verdicts.baselines import find_candidates
from analysis.verdicts.claims import verdicts
from analysis.verdicts.groups import Pairs
from analysis.verdicts.questions import validation_interval
from analysis.verdicts.reasons import would_decide
from tests.support.records import dense, ladder, trial_rows
from tests.support.verdicts import (
    BELOW,
    NEARLY_UP,
    RULE,
    SAME,
    SLIGHTLY_BELOW,
    UP,
    VAGUE,
    answers,
    judge,
    of,
    trials,
    words,
)

ALPHA = RULE.alpha


def test_numbers_of_a_row() -> None:
    matching, beating = (of(judge({50: SAME}), claim)[0] for claim in ("matches", "beats"))
    d = np.array(SAME)
    assert matching["effect"] == pytest.approx(d.mean())
    assert matching["sd"] == pytest.approx(d.std(ddof=1))
    interval = scipy_stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (matching["ci_low"], matching["ci_high"]) == pytest.approx((interval.low, interval.high))
    for row, bound in ((matching, -1), (beating, 0)):
        assert row["p"] == pytest.approx(scipy_stats.ttest_1samp(d, bound, alternative="greater").pvalue, abs=1e-10)
        assert row["p_against"] == pytest.approx(
            scipy_stats.ttest_1samp(d, bound, alternative="less").pvalue, abs=1e-10
        )
        assert row["bound"] == bound
    assert matching["p_sign_flip"] == 1 / 32
    assert matching["mean_ticket"] - matching["mean_baseline"] == pytest.approx(d.mean() / 100)
    assert matching["resolution"] == pytest.approx(100 / 360)
    assert matching["hedges_g"] == pytest.approx(stats.hedges_g(d))
    assert (matching["verdict"], matching["primary"], matching["n_pairs"], matching["unit"]) == (
        "yes", True, 5, "percentage points",
    )  # fmt: skip
    assert (matching["test"], matching["correction"]) == ("paired t", "fixed sequence")
    assert matching["why"] == "at most 1 pp below dense (p < 0.001)"
    assert matching["sparsity_pct"] == pytest.approx(50, abs=0.01)


def test_rows_fit_the_schema() -> None:
    assert schema.table("verdicts", judge({50: SAME, 80: BELOW})).num_rows > 4


@pytest.mark.parametrize("differences", [UP, SAME, BELOW])
def test_below_five_pairs_no_claim_is_answered(differences: Sequence[float]) -> None:
    for seeds in (1, 2, 3, 4):
        rows = judge({50: differences}, seeds=seeds)
        assert set(answers(rows)) == {"undecided"}
        for row in (*of(rows, "matches"), *of(rows, "beats")):
            assert (row["p_decisive"], row["p_against_decisive"]) == (None, None)
            assert row["why"] == f"needs at least 5 seeds, has {seeds}"
            assert row["seeds_needed"] is None if seeds == 1 else row["seeds_needed"] >= 5
    assert words(judge({50: differences})) != ["undecided"]


def test_too_few_pairs_say_how_many_are_broken_and_why() -> None:
    rows = trials({50: SAME})
    rows[0].update(status="failed", test_accuracy=None)
    (row,) = of(verdicts(rows, RULE), "matches")
    assert row["why"] == "needs at least 5 seeds, has 4; 1 planned seed lacks a finished pair"
    assert (row["n_pairs"], row["n_unpaired"], row["unpaired"]) == (4, 1, "dense failed (seed 0)")


def test_no_dense_baseline() -> None:
    (row,) = of(verdicts(trial_rows([*dense(lr=0.01), *ladder(64)], lambda spec: 0.9), RULE), "matches")
    assert row["why"] == "not tested: the run has no dense baseline of 20 epochs"
    assert row["verdict"] == "undecided"


def test_equal_differences_are_decided_by_the_sign_flip_and_say_so() -> None:
    (row,) = of(judge({50: [0.5] * 5}), "beats")
    assert (row["test"], row["sd"], row["p"], row["hedges_g"]) == ("sign flip", 0.0, 1 / 32, None)
    assert row["verdict"] == "yes"
    assert row["why"].endswith("all differences are equal, so the sign-flip test decides")
    (strict,) = of(judge({50: [0.5] * 5}, Rule(margin_pp=1.0, alpha=0.01)), "beats")
    assert strict["why"].startswith("7 seeds would decide")  # 2^-7 < 0.01 < 2^-6


@pytest.mark.parametrize("differences", [VAGUE, [-2.2, -0.4, 0.3, -1.3, 0.1]])
def test_seeds_that_would_decide(differences: list[float]) -> None:
    """By the noncentral t, from the mean's distance to the margin, the sd of the differences, and their uncertainty."""
    delta, sd = float(np.mean(differences)) + 1, float(np.std(differences, ddof=1))
    expected = seeds_needed(abs(delta), sd, ALPHA, at_least=6)
    (row,) = of(judge({50: differences}), "matches")
    assert row["seeds_needed"] == expected
    least = seeds_needed(effect_interval(abs(delta) / sd, 5)[1], 1.0, ALPHA, at_least=6)
    assert (row["seeds_needed_low"], row["seeds_needed_high"]) == (least, None), "the mean may lie on the margin"
    assert row["would_decide"] == f"{least} to more than 100 seeds"
    assert row["why"] == f"{least} to more than 100 seeds would decide at 80 % power"


def test_no_number_of_seeds_is_promised_on_the_margin() -> None:
    (row,) = of(judge({50: [-1.5, -0.5, -1.2, -0.8, -1.0]}), "matches")
    assert row["why"] == "21 to more than 100 seeds would decide at 80 % power"
    assert (row["seeds_needed"], row["seeds_needed_high"]) == (None, None)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(20, 90, "20 to 90 seeds"), (7, 7, "7 seeds"), (20, 101, "20 to more than 100 seeds"),
     (20, None, "20 to more than 100 seeds"), (140, 900, "more than 100 seeds"), (None, None, "more than 100 seeds")],
)  # fmt: skip
def test_a_number_of_seeds_is_a_range(low: int | None, high: int | None, words: str) -> None:
    assert would_decide([Pairs()], SeedsRange(low=low, point=low, high=high)) == words


def test_below_the_margin_the_seeds_are_for_falling_short_after_holm() -> None:
    alone = of(judge({50: SLIGHTLY_BELOW}), "matches")[0]["seeds_needed"]
    several = of(judge({50: SLIGHTLY_BELOW, 80: BELOW, 90: BELOW}), "matches")[0]["seeds_needed"]
    assert 5 < alone < several


def test_margin_alpha_and_endpoint_are_the_plans() -> None:
    differences = {50: [-0.7, -0.9, -0.8, -0.6, -0.8]}
    assert words(judge(differences)) == ["within the margin, lower"]
    assert words(judge(differences, Rule(margin_pp=0.5, alpha=0.05))) == ["falls short"]
    assert words(judge({50: NEARLY_UP}, Rule(margin_pp=0.5, alpha=0.001))) == ["undecided"]
    rows = trials({50: BELOW})
    for row in rows:
        row["valid_accuracy"] = 0.9 + 0.001 * (row["seed"] - 2) * (row["control"] == "none")
    (row,) = of(verdicts(rows, Rule(endpoint="valid_accuracy", margin_pp=1.0)), "matches")
    assert (row["endpoint"], row["verdict"]) == ("valid_accuracy", "yes")
    assert row["resolution"] == pytest.approx(100 / 287)


def test_the_validation_interval_is_that_of_the_trials() -> None:
    candidate = find_candidates(trials({50: SAME}))[0]
    assert validation_interval(candidate) == 20, "1150 images in batches of 60"
    finer = replace(candidate.group, spec={**candidate.group.spec, "validate_every": 5})
    assert validation_interval(replace(candidate, group=finer)) == 5
    none_done = replace(candidate.group, members=())
    assert validation_interval(replace(candidate, group=none_done)) is None


def test_without_such_trials_a_claim_is_not_tested_and_says_so() -> None:
    rows = judge({50: SAME})
    expected = {
        "faster": "the trials have no early stop on record",
        "winning": "the trials have no early stop on record; the run has no reinitialisation trials of these tickets",
        "jackpot": "the run has one learning rate, and the claim is about several; the run has no reinitialisation "
        "trials of these tickets; the run has no small dense trials of these tickets",
    }
    found = {row["claim"]: row for row in rows}
    for claim, why in expected.items():
        assert (found[claim]["verdict"], found[claim]["why"]) == ("undecided", f"not tested: {why}")
        assert (found[claim]["n_pairs"], found[claim]["p"], found[claim]["effect"]) == (0, None, None)
