"""The claims: every answer of each, the numbers of a row, and what a run without such trials says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats import paired as stats
from analysis.stats.multiplicity import adjusted_p
from analysis.stats.power import seeds_needed
from analysis.stats.sequential import plan
from analysis.tables import schema
from analysis.tables.run_plan import Rule
from analysis.verdicts.answer import headlines
from analysis.verdicts.baselines import find_candidates
from analysis.verdicts.claims import verdicts
from analysis.verdicts.outlook import looks_taken, next_look, settled
from analysis.verdicts.questions import validation_interval
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import control_rows, dense, ladder, paired, trial_rows, with_early_stop, without_early_stop

RULE = Rule(margin_pp=1.0)
UP = [1.5, 1.8, 1.6, 1.9, 1.7]
SAME = [0.1, -0.2, 0.3, -0.1, 0.0]
BELOW = [-2.9, -3.1, -3.0, -3.2, -2.8]
VAGUE = [-3.0, 2.0, -1.0, 1.5, -2.0]
SLIGHTLY_BELOW = [-1.9, -0.4, -1.6, -0.7, -1.3]
NEARLY_UP = [0.9, -0.4, 0.5, -0.2, 0.6]

Rows = list[dict[str, Any]]


def trials(differences: dict[float | None, Sequence[float]], seeds: int = 5, **fields: Any) -> Rows:
    """One ladder with exactly these differences (pp, by seed), and its dense trials."""
    specs = [*dense(seeds, **fields), *ladder(*(t for t in differences if t), seeds=seeds, schedule="omp", **fields)]
    return without_early_stop(trial_rows(specs, paired(95.0, differences)))


def judge(differences: dict[float | None, Sequence[float]], rule: Rule = RULE, seeds: int = 5) -> Rows:
    return verdicts(trials(differences, seeds), rule)


def of(rows: Rows, claim: str, kind: str = "dense") -> Rows:
    return [row for row in rows if (row["claim"], row["kind"]) == (claim, kind)]


def answers(rows: Rows) -> list[str]:
    return [row["verdict"] for row in rows]


def words(rows: Rows) -> list[str]:
    return [row["verdict"] for row in headlines(rows)]


# -- matching, beating -------------------------------------------------------------------------------------------------


def test_each_word_is_reachable() -> None:
    assert words(judge({50: UP})) == ["beats dense"]
    assert words(judge({50: SAME})) == ["matches dense"]
    assert words(judge({50: BELOW})) == ["falls short"]
    assert words(judge({50: VAGUE})) == ["undecided"]


def test_each_answer_is_reachable() -> None:
    found = {d: judge({50: d}) for d in map(tuple, (UP, SAME, BELOW, VAGUE))}
    assert [answers(of(rows, "matches")) for rows in found.values()] == [["yes"], ["yes"], ["no"], ["undecided"]]
    assert [answers(of(rows, "beats")) for rows in found.values()] == [["yes"], ["undecided"], ["no"], ["undecided"]]


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
    rows[0].update(status="diverged", test_accuracy=None)
    (row,) = of(verdicts(rows, RULE), "matches")
    assert row["why"] == "needs at least 5 seeds, has 4; 1 planned seed lacks a finished pair"
    assert (row["n_pairs"], row["n_unpaired"], row["unpaired"]) == (4, 1, "dense diverged (seed 0)")


def test_no_dense_baseline() -> None:
    (row,) = of(verdicts(trial_rows([*dense(lr=0.01), *ladder(64)], lambda spec: 0.9), RULE), "matches")
    assert row["why"] == "not tested: the run has no dense baseline of 20 epochs"
    assert row["verdict"] == "undecided"


def test_the_ladder_stops_and_says_where() -> None:
    rows = of(judge({50: SAME, 64: VAGUE, 80: SAME, 90: BELOW}), "matches")
    assert answers(rows) == ["yes", "undecided", "undecided", "no"]
    assert [row["p_decisive"] is None for row in rows] == [False, False, True, True]
    assert "seeds would" in rows[1]["why"]
    assert rows[2]["why"] == "the ladder stopped at 64 %"
    assert rows[2]["p"] < 0.05, "the rung itself would have matched"
    assert rows[2]["seeds_needed"] == rows[1]["seeds_needed"], "it waits for the rung before it"


def test_a_rung_without_enough_pairs_stops_the_ladder() -> None:
    specs = [*dense(), *ladder(64, seeds=3), *ladder(87.04)]
    rows = of(verdicts(trial_rows(specs, paired(95.0, {64: SAME, 87.04: SAME})), RULE), "matches")
    assert [row["why"] for row in rows] == ["needs at least 5 seeds, has 3", "the ladder stopped at 64 %"]


def test_each_ladder_and_each_baseline_is_a_sequence_of_its_own() -> None:
    tickets = [spec for k in (0, 1) for spec in ladder(50, 80, rewind_epoch=k, schedule="one_shot")]
    dense_pct = {20: 95.0, 5: 94.0}

    def accuracy(spec: TrialSpec) -> float:
        if spec.is_dense:
            return dense_pct[spec.epochs] / 100
        bad = spec.rewind_epoch == 0 and spec.target_sparsity_pct == 50
        return (95 + (SLIGHTLY_BELOW if bad else SAME)[spec.seed]) / 100

    specs = [*(spec for epochs in dense_pct for spec in dense(epochs=epochs)), *tickets]
    rows = [row for row in verdicts(trial_rows(specs, accuracy), RULE) if row["claim"] == "matches"]
    reached = {(row["rewind_epoch"], row["baseline"], row["target_sparsity_pct"]): row["p_decisive"] for row in rows}
    shown = {key: p is not None and p <= 0.05 for key, p in reached.items()}
    assert [shown[0, "dense-e20", s] for s in (50, 80)] == [False, False] and reached[0, "dense-e20", 80] is None
    assert [shown[1, "dense-e20", s] for s in (50, 80)] == [True, True]
    assert [shown[0, "dense-e5", s] for s in (50, 80)] == [True, True]


def test_alpha_holds_over_all_ladders() -> None:
    """The rungs' p values go through the graph of ladders; with two ladders the first needs alpha / 2."""
    specs = [*dense(), *ladder(50, 80, schedule="one_shot"), *ladder(50, schedule="agp")]
    targets = {50: [-0.5, -0.9, 0.4, -0.6, -0.4], 80: SAME}
    rows = of(verdicts(trial_rows(specs, paired(95.0, targets)), RULE), "matches")
    assert 0.025 < rows[0]["p"] <= 0.05
    first, second = adjusted_p([[row["p"] for row in rows[:2]], [rows[2]["p"]]])
    assert rows[0]["p_decisive"] == pytest.approx(first[0])
    assert rows[2]["p_decisive"] == pytest.approx(second[0])
    assert answers(rows) == ["undecided"] * 3
    assert rows[0]["why"].startswith("not after Holm over 2 ladders; about ")
    assert rows[0]["correction"] == "fixed sequence; Holm over 2 ladders; against: Holm over 3"
    alone = of(judge({50: targets[50]}), "matches")
    assert answers(alone) == ["yes"], "a single ladder has the whole of alpha"


def test_holm_is_over_each_kind_of_baseline_apart() -> None:
    specs = [*dense(), *dense(epochs=5), *ladder(50, 80, schedule="one_shot"), *ladder(50, schedule="agp")]
    targets = {50: UP, 80: [0.5, -0.1, 0.6, 0.2, 0.4]}
    rows = verdicts(trial_rows(specs, paired(95.0, targets)), RULE)
    for kind in ("dense", "dense_other"):
        family = of(rows, "beats", kind)
        assert len(family) == 3
        assert [row["p_decisive"] for row in family] == pytest.approx(stats.holm([row["p"] for row in family]))


def test_untested_comparisons_count_in_holm() -> None:
    """One of two groups has 3 seeds only: the other's p is still doubled."""
    specs = [*dense(), *ladder(50, schedule="one_shot"), *ladder(50, seeds=3, schedule="agp")]
    rows = of(verdicts(trial_rows(specs, paired(95.0, {50: UP})), RULE), "beats")
    assert rows[0]["p_decisive"] == pytest.approx(2 * rows[0]["p"])
    assert rows[1]["p_decisive"] is None


def test_equal_differences_are_decided_by_the_sign_flip_and_say_so() -> None:
    (row,) = of(judge({50: [0.5] * 5}), "beats")
    assert (row["test"], row["sd"], row["p"], row["hedges_g"]) == ("sign flip", 0.0, 1 / 32, None)
    assert row["verdict"] == "yes"
    assert row["why"].endswith("all differences are equal, so the sign-flip test decides")
    (strict,) = of(judge({50: [0.5] * 5}, Rule(margin_pp=1.0, alpha=0.01)), "beats")
    assert strict["why"].startswith("about 7 seeds would decide")  # 2^-7 < 0.01 < 2^-6


@pytest.mark.parametrize("differences", [VAGUE, [-2.2, -0.4, 0.3, -1.3, 0.1]])
def test_seeds_that_would_decide(differences: list[float]) -> None:
    """By the noncentral t, from the mean's distance to the margin and the sd of the differences."""
    delta, sd = float(np.mean(differences)) + 1, float(np.std(differences, ddof=1))
    expected = seeds_needed(abs(delta), sd, 0.05, at_least=6)
    (row,) = of(judge({50: differences}), "matches")
    assert row["seeds_needed"] == expected
    assert row["why"] == f"about {expected} seeds would decide at 80 % power"


def test_no_number_of_seeds_is_promised_on_the_margin() -> None:
    (row,) = of(judge({50: [-1.5, -0.5, -1.2, -0.8, -1.0]}), "matches")
    assert row["why"] == "too close to the bound, more than 1,000 seeds needed"
    assert row["seeds_needed"] is None


def test_below_the_margin_the_seeds_are_for_falling_short_after_holm() -> None:
    alone = of(judge({50: SLIGHTLY_BELOW}), "matches")[0]["seeds_needed"]
    several = of(judge({50: SLIGHTLY_BELOW, 80: BELOW, 90: BELOW}), "matches")[0]["seeds_needed"]
    assert 5 < alone < several


def test_margin_alpha_and_endpoint_are_the_plans() -> None:
    differences = {50: [-0.7, -0.9, -0.8, -0.6, -0.8]}
    assert words(judge(differences)) == ["matches dense"]
    assert words(judge(differences, Rule(margin_pp=0.5))) == ["falls short"]
    assert words(judge({50: NEARLY_UP}, Rule(margin_pp=0.5, alpha=0.001))) == ["undecided"]
    rows = trials({50: BELOW})
    for row in rows:
        row["valid_accuracy"] = 0.9 + 0.001 * (row["seed"] - 2) * (row["control"] == "none")
    (row,) = of(verdicts(rows, Rule(endpoint="valid_accuracy", margin_pp=1.0)), "matches")
    assert (row["endpoint"], row["verdict"]) == ("valid_accuracy", "yes")
    assert row["resolution"] == pytest.approx(100 / 287)


def test_equal_total_budget_stretched_and_restarted() -> None:
    """Tickets beat dense at T, match it stretched, and fall short of restarts."""
    rows = trials({50: UP}) + trial_rows(dense(epochs=40), lambda spec: (95 + 0.1 * spec.seed + 1.7) / 100)
    for row in rows:
        row["epochs_total"] = 40 if row["control"] == "none" else row["epochs"]
    rows += control_rows(rows, "dense_restarts", [-d for d in UP])
    found = verdicts(rows, RULE)
    assert {(row["claim"], row["kind"]): row["verdict"] for row in found if row["n_pairs"]} == {
        ("matches", "dense"): "yes", ("beats", "dense"): "yes", ("largest_matching_sparsity", "dense"): "yes",
        ("matches", "dense_stretched"): "yes", ("beats", "dense_stretched"): "undecided",
        ("matches", "dense_restarts"): "no", ("beats", "dense_restarts"): "no",
    }  # fmt: skip
    assert [row["primary"] for row in found if row["claim"] == "matches"] == [True, False, False]


# -- controls, early stop ----------------------------------------------------------------------------------------------


def test_controls_are_beaten_or_not() -> None:
    rows = trials({50: SAME})
    rows += control_rows(rows, "random_mask", UP) + control_rows(rows, "reinit", BELOW)
    rows += control_rows(rows, "layerwise_shuffle", NEARLY_UP)
    found = verdicts(rows, RULE)
    assert {c: answers(of(found, "beats", c)) for c in ("random_mask", "reinit", "layerwise_shuffle")} == {
        "random_mask": ["yes"], "reinit": ["no"], "layerwise_shuffle": ["undecided"],
    }  # fmt: skip
    (row,) = of(found, "beats", "random_mask")
    assert row["why"] == "better than random mask (p < 0.001)"
    assert (row["baseline_group"], row["primary"]) == ("digits-lenet_300_100-omp-s50-r0-random_mask", False)
    assert row["effect"] == pytest.approx(np.mean(UP))
    assert of(found, "beats", "random_sparse") == [], "the run has none"


def test_faster_counts_iterations() -> None:
    rows = with_early_stop(trials({50: SAME}), [100, 120, 100, 140, 80], [200, 180, 220, 200, 200])
    (row,) = of(verdicts(rows, RULE), "faster")
    d = np.array([-100, -60, -120, -60, -120])
    assert (row["verdict"], row["unit"], row["endpoint"]) == ("yes", "iterations", "early_stop_iteration")
    assert (row["effect"], row["resolution"]) == (d.mean(), 20)  # 1150 pictures in batches of 60
    assert row["p"] == pytest.approx(scipy_stats.ttest_1samp(d, 0, alternative="less").pvalue, abs=1e-10)
    assert row["p_sign_flip"] == 1 / 32
    late = with_early_stop(trials({50: SAME}), [200, 180, 220, 200, 200], [100, 120, 100, 140, 80])
    assert answers(of(verdicts(late, RULE), "faster")) == ["no"]


def test_a_censored_early_stop_is_never_taken_as_its_last_iteration() -> None:
    """Dense networks that were still improving are later for certain; of tickets that were, nothing is known."""
    early, ends = [100, 120, 100, 140, 80], [400, 400, 400, 400, 400]
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), early, ends), RULE), "faster")
    assert (row["verdict"], row["test"], row["p"], row["n_censored"]) == ("yes", "sign test", 1 / 32, 5)
    assert (row["effect"], row["ci_low"], row["sd"], row["hedges_g"], row["p_sign_flip"]) == (None,) * 5
    censored = "5 of 5 pairs are censored, the loss still falling at the end, so the sign test decides"
    assert row["why"] == f"earlier than dense (p = 0.031); {censored}"
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), ends, ends), RULE), "faster")
    assert row["why"] == f"more seeds alone would hardly decide; {censored}", "not: too close to the bound"
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), ends, ends), RULE), "faster")
    assert (row["verdict"], row["p"], row["p_against"]) == ("undecided", 1.0, 1.0), "later than both, but by how much?"
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), ends, early), RULE), "faster")
    assert row["verdict"] == "no"
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), [*early[:4], 400], [*ends[:4], 100]), RULE), "faster")
    assert (row["verdict"], row["p"]) == ("undecided", 6 / 32)
    assert row["seeds_needed"] > 5


def winning_rows(
    ticket: Sequence[int] = (100, 120, 100, 140, 80), ahead: Sequence[float] = UP, d: Sequence[float] = SAME
) -> Rows:
    rows = with_early_stop(trials({50: d}), ticket, [200, 180, 220, 200, 200])
    return [*rows, *control_rows(rows, "reinit", ahead)]


def test_winning_is_a_conjunction_at_the_largest_p_of_its_parts() -> None:
    (row,) = of(verdicts(winning_rows(ahead=[0.9, 0.2, 0.5, 0.1, 0.6]), RULE), "winning")
    d = np.array([0.9, 0.2, 0.5, 0.1, 0.6])
    weakest = scipy_stats.ttest_1samp(d, 0, alternative="greater").pvalue
    assert row["verdict"] == "yes"
    assert row["p"] == row["p_decisive"] == pytest.approx(weakest, abs=1e-10), "no correction over the parts"
    assert (row["effect"], row["endpoint"]) == (pytest.approx(d.mean()), "early_stop_test_accuracy")
    assert row["why"] == (
        "at most 1 pp below dense at early stop, less than 20 iterations later than dense, better than "
        "reinitialisation at early stop (p = 0.016)"
    )
    assert row["correction"] == "largest p of its parts"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"d": BELOW}, "more than 1 pp below dense at early stop"),
        ({"ticket": (300, 320, 300, 340, 310)}, "more than 20 iterations later than dense"),
        ({"ahead": BELOW}, "worse than reinitialisation at early stop"),
    ],
)
def test_one_refuted_part_refutes_winning(changes: dict[str, Any], why: str) -> None:
    (row,) = of(verdicts(winning_rows(**changes), RULE), "winning")
    assert row["verdict"] == "no"
    assert row["why"].startswith(f"{why} (p ")


def test_an_open_part_leaves_winning_undecided() -> None:
    (row,) = of(verdicts(winning_rows(ahead=NEARLY_UP), RULE), "winning")
    assert row["verdict"] == "undecided"
    assert row["why"].startswith("not shown: better than reinitialisation at early stop; about ")
    assert row["seeds_needed"] == seeds_needed(
        float(np.mean(NEARLY_UP)), float(np.std(NEARLY_UP, ddof=1)), 0.05, at_least=6
    )  # fmt: skip


def test_as_late_as_dense_is_not_later() -> None:
    """The margin of "not later" is one validation interval, 20 iterations here: equal early stops are within it."""
    equal = winning_rows(ticket=[200, 200, 220, 180, 200])
    assert answers(of(verdicts(equal, RULE), "winning")) == ["yes"]
    assert answers(of(verdicts(equal, RULE), "faster")) == ["undecided"]


def test_the_validation_interval_is_that_of_the_trials() -> None:
    candidate = find_candidates(trials({50: SAME}))[0]
    assert validation_interval(candidate) == 20, "1150 pictures in batches of 60"
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


# -- Ma et al. ---------------------------------------------------------------------------------------------------------


def two_rates(
    same: Sequence[float] = SAME,
    best: Sequence[float] = SAME,
    reinit: Sequence[float] = UP,
    small: Sequence[float] = UP,
) -> Rows:
    """Tickets and controls at two learning rates; the dense network of the second is better on validation.

    Of the tickets at the first rate: differences from its dense network, from the best one, from the reinitialisations
    at either rate, from a small dense one.
    """
    rows = trials({50: same}, lr=0.001)
    for row in rows:
        row["valid_accuracy"] = 0.90
    tickets = [row for row in rows if row["control"] == "none"]
    other = []
    for row in rows:
        base = tickets[row["seed"]]["test_accuracy"]
        accuracy = base - best[row["seed"]] / 100 if row["control"] == "dense" else base - 0.05
        name = row["trial"].replace("lr0.001", "lr0.01")
        other.append(row | {"lr": 0.01, "trial": name, "test_accuracy": accuracy, "valid_accuracy": 0.92})
    narrow = [
        row | {
            "width_pct": 50.0, "n_weights": tickets[0]["n_kept"], "trial": row["trial"].replace("dense", "dense-w50"),
            "test_accuracy": tickets[row["seed"]]["test_accuracy"] - small[row["seed"]] / 100,
        }
        for row in rows
        if row["control"] == "dense"
    ]  # fmt: skip
    reinits = control_rows(tickets, "reinit", reinit)
    moved = [
        row | {"lr": 0.01, "trial": row["trial"].replace("lr0.001", "lr0.01")} for row in reinits
    ]  # the same accuracy at the other rate
    return [*rows, *other, *narrow, *reinits, *moved]


def prizes(rows: Rows) -> dict[str, str]:
    """Answers of the tickets at the first learning rate."""
    found = verdicts(rows, RULE)
    return {row["claim"]: row["verdict"] for row in found if "lr0.001" in row["group"] and row["kind"] == "several"}


def test_the_parts_of_a_jackpot_say_their_learning_rates() -> None:
    def why(**differences: Sequence[float]) -> str:
        rows = of(verdicts(two_rates(**differences), RULE), "jackpot", "several")
        return next(row["why"] for row in rows if "lr0.001" in row["group"])

    for rate in ("0.001", "0.01"):
        assert f"more than 1 pp above reinitialisation at learning rate {rate}" in why()
    assert "more than 1 pp below dense of the best learning rate, 0.01" in why(best=BELOW)


def test_a_jackpot_holds_at_every_learning_rate() -> None:
    assert prizes(two_rates()) == {"jackpot": "yes", "secondary_prize": "no"}


def test_failing_the_best_rate_alone_is_the_secondary_prize() -> None:
    assert prizes(two_rates(best=BELOW)) == {"jackpot": "no", "secondary_prize": "yes"}


@pytest.mark.parametrize("part", ["same", "reinit", "small"])
def test_any_other_failure_is_neither(part: str) -> None:
    assert prizes(two_rates(**{part: BELOW})) == {"jackpot": "no", "secondary_prize": "no"}


def test_reinitialisation_must_be_beaten_by_more_than_the_margin() -> None:
    assert prizes(two_rates(reinit=[0.1, 0.3, 0.2, 0.4, 0.2])) == {"jackpot": "no", "secondary_prize": "no"}
    assert prizes(two_rates(reinit=[1.5, 0.8, 0.6, 1.9, 1.4])) == {"jackpot": "undecided", "secondary_prize": "no"}


# -- supermasks --------------------------------------------------------------------------------------------------------


def supermasks(accuracy: float = 0.8, mask: Sequence[float] = UP, signs: Sequence[float] = UP) -> Rows:
    specs = [*dense(), *ladder(50, schedule="one_shot", reset_end=True)]
    rows = trial_rows(specs, lambda spec: accuracy + 0.004 * spec.seed)
    for row in rows:
        row["majority_class_accuracy"], row["chance_accuracy"] = 0.675, 0.5
    return [*rows, *control_rows(rows, "layerwise_shuffle", mask), *control_rows(rows, "sign_shuffle", signs)]


def test_a_supermask_beats_its_controls_the_majority_class_and_chance() -> None:
    (row,) = of(verdicts(supermasks(), RULE), "supermask", "several")
    assert row["verdict"] == "yes"
    assert row["why"].startswith(
        "better than shuffled mask, better than shuffled signs, better than the majority class"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"accuracy": 0.65}, "worse than the majority class"),
        ({"mask": BELOW}, "worse than shuffled mask"),
        ({"signs": BELOW}, "worse than shuffled signs"),
    ],
)
def test_what_is_below_any_of_them_is_no_supermask(changes: dict[str, Any], why: str) -> None:
    """The tutorial's own: 66.2 % where the commonest class alone gives 67.5 %."""
    (row,) = of(verdicts(supermasks(**changes), RULE), "supermask", "several")
    assert row["verdict"] == "no" and row["why"].startswith(why)


def test_supermasks_have_claims_of_their_own_and_need_their_controls() -> None:
    found = verdicts(supermasks(), RULE)
    assert not {"faster", "winning", "jackpot", "secondary_prize"} & {row["claim"] for row in found}
    rows = [row for row in supermasks() if row["control"] != "sign_shuffle"]
    (row,) = of(verdicts(rows, RULE), "supermask", "several")
    assert row["why"] == "not tested: the run has no shuffled signs trials of these tickets"
    assert "supermask" not in {row["claim"] for row in judge({50: SAME})}


# -- ladders, looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rungs", "verdict", "effect", "why"),
    [
        ((SAME, SAME, BELOW), "yes", 64.0, "matches down to 64 %; 80 % falls short"),
        ((SAME, VAGUE, SAME), "yes", 50.0, "matches down to 50 %; 64 % is undecided"),
        ((SAME, SAME, UP), "yes", 80.0, "matches down to 80 %, the sparsest rung"),
        ((BELOW, BELOW, BELOW), "no", None, "no rung is shown to match; 50 % falls short"),
        ((VAGUE, SAME, SAME), "undecided", None, "no rung is shown to match; 50 % is undecided"),
    ],
)
def test_the_largest_matching_sparsity(rungs: Any, verdict: str, effect: float | None, why: str) -> None:
    rows = judge(dict(zip((50, 64, 80), rungs, strict=True)))
    (row,) = of(rows, "largest_matching_sparsity")
    assert (row["verdict"], row["effect"], row["why"], row["unit"]) == (verdict, effect, why, "per cent")
    assert row["target_sparsity_pct"] == (effect or 50.0)
    assert settled(rows) == {row["ladder"]: "undecided" not in why}


def looked(seeds: int, looks: Sequence[int], offset: float = 0.0) -> tuple[Rows, list[float]]:
    d = [float(x) for x in np.random.default_rng(4).normal(offset, 1.1, seeds)]
    return verdicts(trials({50: d}, seeds=seeds), Rule(margin_pp=1.0, looks=tuple(looks))), d


def test_a_look_uses_its_own_boundary() -> None:
    """Decisive p at most alpha iff the t test's p is at most the level of the plan at one of the looks taken."""
    looks = (5, 8, 12)
    planned = plan(looks, 0.05)
    for seeds in looks:
        rows, d = looked(seeds, looks)
        (row,) = of(rows, "matches")
        p = [scipy_stats.ttest_1samp(d[:n], -1, alternative="greater").pvalue for n in looks if n <= seeds]
        assert row["p"] == pytest.approx(p[-1], abs=1e-10)
        assert (row["p_decisive"] <= 0.05) == (planned.rejected_at(p) is not None)
        assert (row["look"], row["n_pairs"]) == (seeds, seeds)
        assert row["correction"].startswith("alpha spending (O'Brien and Fleming); fixed sequence")
    assert row["p_decisive"] > row["p"]


def test_seeds_beyond_the_last_complete_look_are_not_judged() -> None:
    rows, _ = looked(10, (5, 8, 12))
    assert {(row["look"], row["n_pairs"]) for row in of(rows, "matches")} == {(8, 8)}
    rows, _ = looked(4, (5, 8, 12))
    (row,) = of(rows, "matches")
    assert (row["verdict"], row["look"], row["p_decisive"]) == ("undecided", None, None)
    assert row["why"] == "the first look is at 5 seeds, and its trials are not complete"
    assert of(looked(20, (5, 8, 12))[0], "matches")[0]["n_pairs"] == 12, "the plan is spent"


def test_a_look_is_taken_once_all_its_trials_were_tried() -> None:
    rows = trials({50: SAME * 2}, seeds=10)
    assert looks_taken(rows, (5, 8, 12)) == (5, 8)
    rows[6].update(status="failed")
    assert looks_taken(rows, (5, 8, 12)) == (5, 8), "a failed trial was tried"
    rows[6].update(status="missing")
    assert looks_taken(rows, (5, 8, 12)) == (5,)
    rows[16].update(status="missing")
    rows[10].update(status="missing")
    assert looks_taken(rows, (5, 8, 12)) == ()
    assert looks_taken([], (5, 8)) == ()


def test_what_a_look_decided_stays_decided() -> None:
    """Shown at 5 seeds; three more that are far below make the p of 8 seeds large, and the answer stays."""
    clear = [0.1, 0.12, 0.09, 0.11, 0.1]
    rule = Rule(margin_pp=1.0, looks=(5, 8, 12))
    assert answers(of(verdicts(trials({50: clear}), rule), "matches")) == ["yes"]
    (row,) = of(verdicts(trials({50: [*clear, -9, -8, -9]}, seeds=8), rule), "matches")
    assert row["p"] > 0.5 and row["verdict"] == "yes"


def test_the_next_look() -> None:
    looks = (5, 8, 12)
    undecided, _ = looked(5, looks, offset=-1.0)
    assert not any(settled(undecided).values())
    assert next_look(undecided, looks) == 8
    assert next_look(looked(12, looks, offset=-1.0)[0], looks) is None, "all are taken"
    assert next_look(looked(4, looks)[0], looks) == 5, "none is taken"
    assert next_look([], looks) == 5
    decided = verdicts(trials({50: [0.1, 0.12, 0.09, 0.11, 0.1]}), Rule(margin_pp=1.0, looks=looks))
    assert all(settled(decided).values())
    assert next_look(decided, looks) is None


def test_a_baseline_takes_no_dense_network_away_from_a_ticket() -> None:
    """One that is as long as the whole budget of a baseline is still of another budget for the tickets."""
    omp = ladder(50, schedule="omp")
    rows = trial_rows([*dense(), *dense(epochs=40), *ladder(64)], lambda spec: 0.9)
    assert omp[0].epochs_alone() == 40
    alone = [row for row in verdicts(rows, RULE) if row["kind"] == "dense_other"]
    beside = verdicts([*rows, *trial_rows(omp, lambda spec: 0.9, role="baseline")], RULE)
    assert [row for row in beside if row["kind"] == "dense_other"] == alone != []
    assert [row["role"] for row in beside if row["kind"] == "dense_stretched"] == ["baseline"] * 2
