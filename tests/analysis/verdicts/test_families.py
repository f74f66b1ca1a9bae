"""Claims that are tested together: ladders, corrections over families of them, interim looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats import paired as stats
from analysis.stats.multiplicity import adjusted_p
from analysis.stats.sequential import plan
from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from analysis.verdicts.outlook import looks_taken, next_look, settled
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import dense, ladder, paired, trial_rows
from tests.support.verdicts import (
    BELOW,
    RULE,
    SAME,
    SLIGHTLY_BELOW,
    UP,
    VAGUE,
    Rows,
    answers,
    judge,
    of,
    trials,
)

# -- ladders and corrections -------------------------------------------------------------------------------------------


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
    assert rows[0]["why"].startswith("not after Holm over 2 ladders; ")
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


def test_a_baseline_takes_no_dense_network_away_from_a_ticket() -> None:
    """One that is as long as the whole budget of a baseline is still of another budget for the tickets."""
    omp = ladder(50, schedule="omp")
    rows = trial_rows([*dense(), *dense(epochs=40), *ladder(64)], lambda spec: 0.9)
    assert omp[0].epochs_alone() == 40
    alone = [row for row in verdicts(rows, RULE) if row["kind"] == "dense_other"]
    beside = verdicts([*rows, *trial_rows(omp, lambda spec: 0.9, role="baseline")], RULE)
    assert [row for row in beside if row["kind"] == "dense_other"] == alone != []
    assert [row["role"] for row in beside if row["kind"] == "dense_stretched"] == ["baseline"] * 2


# -- looks -------------------------------------------------------------------------------------------------------------


def looked(seeds: int, looks: Sequence[int], offset: float = 0.0) -> tuple[Rows, list[float]]:
    d = [float(x) for x in np.random.default_rng(4).normal(offset, 1.1, seeds)]
    return verdicts(trials({50: d}, seeds=seeds), Rule(margin_pp=1.0, alpha=0.05, looks=tuple(looks))), d


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
    rule = Rule(margin_pp=1.0, alpha=0.05, looks=(5, 8, 12))
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
    decided = verdicts(trials({50: [0.1, 0.12, 0.09, 0.11, 0.1]}), Rule(margin_pp=1.0, alpha=0.05, looks=looks))
    assert all(settled(decided).values())
    assert next_look(decided, looks) is None
