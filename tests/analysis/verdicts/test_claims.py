"""The claims: every answer of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats.power import seeds_needed
from analysis.verdicts.claims import verdicts
from tests.support.records import control_rows, dense, ladder, paired, trial_rows, with_early_stop, with_fields
from tests.support.verdicts import (
    BELOW,
    NEARLY_UP,
    RULE,
    SAME,
    SLIGHTLY_LOWER,
    UP,
    VAGUE,
    Rows,
    answers,
    judge,
    of,
    trials,
    words,
)

# -- matching, beating -------------------------------------------------------------------------------------------------


def test_each_word_is_reachable() -> None:
    assert words(judge({50: UP})) == ["beats"]
    assert words(judge({50: SAME})) == ["matches"]
    assert words(judge({50: SLIGHTLY_LOWER})) == ["within the margin, lower"]
    assert words(judge({50: BELOW})) == ["falls short"]
    assert words(judge({50: VAGUE})) == ["undecided"]


def test_each_answer_is_reachable() -> None:
    found = {d: judge({50: d}) for d in map(tuple, (UP, SAME, BELOW, VAGUE))}
    assert [answers(of(rows, "matches")) for rows in found.values()] == [["yes"], ["yes"], ["no"], ["undecided"]]
    assert [answers(of(rows, "beats")) for rows in found.values()] == [["yes"], ["undecided"], ["no"], ["undecided"]]


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
    assert (row["verdict"], row["unit"], row["endpoint"]) == ("yes", "iterations", "early_stop_from_init")
    assert (row["effect"], row["resolution"]) == (d.mean(), 20)  # 1150 images in batches of 60
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
    censored = "in 5 of 5 pairs a loss was still falling at the end, so the sign test decides"
    assert row["why"] == f"earlier than dense (p = 0.031); {censored}"
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), ends, ends), RULE), "faster")
    assert row["why"] == f"train longer; {censored}", "not: too close to the bound"
    assert (row["verdict"], row["p"], row["p_against"]) == ("undecided", 1.0, 1.0), "later than both, but by how much?"
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), ends, early), RULE), "faster")
    assert row["verdict"] == "no"
    (row,) = of(verdicts(with_early_stop(trials({50: SAME}), [*early[:4], 400], [*ends[:4], 100]), RULE), "faster")
    assert (row["verdict"], row["p"]) == ("undecided", 6 / 32)
    assert row["seeds_needed"] is None and row["why"].startswith("train longer")


def test_iterations_count_from_the_initialisation() -> None:
    """Rewound to epoch 5 of 20 iterations, with 100 more after the last prune: as many as the dense network's 200."""
    specs = [*dense(), *ladder(50, schedule="omp", rewind_epoch=5)]
    rows = with_early_stop(trial_rows(specs, paired(95.0, {50: SAME})), [100] * 5, [200, 180, 220, 190, 210])
    (row,) = of(verdicts(rows, RULE), "faster")
    assert (row["mean_ticket"], row["effect"], row["verdict"]) == (200, 0, "undecided")
    later = with_early_stop(trial_rows(specs, paired(95.0, {50: SAME})), [180] * 5, [200, 180, 220, 190, 210])
    assert answers(of(verdicts(later, RULE), "faster")) == ["no"], "180 since the prune, and later all the same"
    again = control_rows(later, "reinit", UP)
    assert answers(of(verdicts([*later, *again], RULE), "winning")) == ["no"]


@pytest.mark.parametrize(
    "fields", [{"retrain": "fine_tuning"}, {"retrain": "lr_rewinding"}, {"schedule": "agp"}], ids=str
)
def test_only_rewound_tickets_are_asked_whether_they_are_faster(fields: dict[str, str]) -> None:
    specs = [*dense(), *ladder(50, **{"schedule": "omp", **fields})]
    rows = with_early_stop(trial_rows(specs, paired(95.0, {50: SAME})), [100] * 5, [200] * 5)
    assert not {"faster", "winning"} & {row["claim"] for row in verdicts(rows, RULE)}
    assert {row["early_stop_from_init"] for row in rows} == {200, None}


def test_a_diverged_ticket_is_never_faster_and_no_number_of_seeds_is_named() -> None:
    rows = with_early_stop(trials({50: SAME}), [100, 120, 100, 140, 80], [200, 180, 220, 200, 200])
    ticket = next(row for row in rows if row["control"] == "none" and row["seed"] == 2)
    ticket.update(status="diverged", test_accuracy=None, early_stop_from_init=None, early_stop_censored=None)
    (row,) = of(verdicts(rows, RULE), "faster")
    assert (row["verdict"], row["test"], row["n_diverged"]) == ("undecided", "sign test", 1)
    assert row["why"] == (
        "how many seeds would decide is not known; so the sign test decides; 1 of 5 pairs has a diverged trial, whose "
        "early stop never comes"
    )


def test_a_recipe_may_be_judged_at_the_early_stop() -> None:
    rows = trials({50: SAME})
    for row in rows:
        row["early_stop_test_accuracy"] = row["test_accuracy"] + (0.02 if row["control"] == "none" else 0)
    rule = replace(RULE, endpoint="early_stop_test_accuracy")
    (row,), (last,) = of(verdicts(rows, rule), "beats"), of(verdicts(rows, RULE), "beats")
    assert (row["verdict"], row["endpoint"]) == ("yes", "early_stop_test_accuracy") and last["verdict"] == "undecided"
    assert row["effect"] == pytest.approx(last["effect"] + 2)


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
    assert row["why"].startswith("not shown: better than reinitialisation at early stop; ")
    assert row["would_decide"] in row["why"]
    assert row["seeds_needed"] == seeds_needed(
        float(np.mean(NEARLY_UP)), float(np.std(NEARLY_UP, ddof=1)), 0.05, at_least=6
    )  # fmt: skip


def test_as_late_as_dense_is_not_later() -> None:
    """The margin of "not later" is one validation interval, 20 iterations here: equal early stops are within it."""
    equal = winning_rows(ticket=[200, 200, 220, 180, 200])
    assert answers(of(verdicts(equal, RULE), "winning")) == ["yes"]
    assert answers(of(verdicts(equal, RULE), "faster")) == ["undecided"]


# -- Ma et al. ---------------------------------------------------------------------------------------------------------


def two_rates(
    same: Sequence[float] = SAME,
    best: Sequence[float] = SAME,
    reinit: Sequence[float] = UP,
    small: Sequence[float] = UP,
    own_reinit: Sequence[float] = UP,
) -> Rows:
    """Tickets and controls at two learning rates; the dense network of the second is better on validation.

    Of the tickets at the first rate: differences from its dense network, from the best one, from the reinitialisations
    of its mask at the second rate and at its own, from a small dense one. The first of these is better on validation.
    """
    rows = trials({50: same}, lr=0.001)
    for row in rows:
        row["valid_accuracy"] = 0.90
    tickets = [row for row in rows if row["control"] == "none"]
    other = []
    for row in rows:
        base = tickets[row["seed"]]["test_accuracy"]
        accuracy = base - best[row["seed"]] / 100 if row["control"] == "dense" else base - 0.05
        other.append(with_fields(row, lr=0.01) | {"test_accuracy": accuracy, "valid_accuracy": 0.92})
    narrow = [
        with_fields(row, width_pct=50.0) | {
            "n_weights": tickets[0]["n_kept"],
            "test_accuracy": tickets[row["seed"]]["test_accuracy"] - small[row["seed"]] / 100,
        }
        for row in rows
        if row["control"] == "dense"
    ]  # fmt: skip
    own = control_rows(tickets, "reinit", own_reinit)
    moved = [
        with_fields(row, control_lr=0.01) | {"valid_accuracy": 0.92} for row in control_rows(tickets, "reinit", reinit)
    ]  # fmt: skip
    return [*rows, *other, *narrow, *own, *moved]


def prizes(rows: Rows) -> dict[str, str]:
    """Answers of the tickets at the first learning rate."""
    found = verdicts(rows, RULE)
    return {row["claim"]: row["verdict"] for row in found if "lr0.001" in row["group"] and row["kind"] == "several"}


def test_the_parts_of_a_jackpot_say_their_learning_rates() -> None:
    def why(**differences: Sequence[float]) -> str:
        rows = of(verdicts(two_rates(**differences), RULE), "jackpot", "several")
        return next(row["why"] for row in rows if "lr0.001" in row["group"])

    assert "more than 1 pp above reinitialisation at its best learning rate 0.01" in why()
    assert "above reinitialisation at learning rate 0.001" in why()
    assert "more than 1 pp below dense of the best learning rate, 0.01" in why(best=BELOW)


def test_a_jackpot_beats_the_reinitialisation_of_its_mask_at_every_rate() -> None:
    """Not only at the best on validation, which may not be the best on test images."""
    assert prizes(two_rates()) == {"jackpot": "yes", "secondary_prize": "no"}
    assert prizes(two_rates(own_reinit=BELOW)) == {"jackpot": "no", "secondary_prize": "no"}


def test_a_jackpot_needs_the_reinitialisation_of_its_mask_at_every_learning_rate() -> None:
    rows = [row for row in two_rates() if row.get("control_lr") is None]
    found = [row for row in of(verdicts(rows, RULE), "jackpot", "several") if "lr0.001" in row["group"]]
    assert [row["verdict"] for row in found] == ["undecided"]
    assert "no reinitialisation of this mask at learning rate 0.01 (--control-lr)" in found[0]["why"]


def test_a_ticket_of_the_best_rate_is_not_asked_for_a_secondary_prize() -> None:
    """It would have to match one dense network and fall short of it."""
    rows = of(verdicts(two_rates(best=BELOW), RULE), "secondary_prize", "several")
    found = {"lr0.01" in row["group"]: row for row in rows}
    assert found[False]["verdict"] == "yes" and found[True]["verdict"] == "undecided"
    assert "its learning rate is the best one" in found[True]["why"]


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
