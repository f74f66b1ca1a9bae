"""Groups, pairs and verdicts: who is compared with whom, every word, and simulated nulls that hold alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import pairs, stats
from analysis.hypotheses import verdicts
from analysis.plan import Rule
from lth_trainable.spec import TrialSpec
from tests.analysis_helpers import dense, digits_like, ladder, paired, trial_rows

RULE = Rule(margin_pp=1.0)
UP = [1.5, 1.8, 1.6, 1.9, 1.7]
SAME = [0.1, -0.2, 0.3, -0.1, 0.0]
BELOW = [-2.9, -3.1, -3.0, -3.2, -2.8]
VAGUE = [-3.0, 2.0, -1.0, 1.5, -2.0]
SLIGHTLY_BELOW = [-1.9, -0.4, -1.6, -0.7, -1.3]


def judge(
    differences: dict[float | None, Sequence[float]], rule: Rule = RULE, seeds: int = 5, **fields: Any
) -> list[dict[str, Any]]:
    """Verdicts of one ladder with exactly these differences (pp, by seed)."""
    specs = [*dense(seeds), *ladder(*(t for t in differences if t), seeds=seeds, schedule="omp", **fields)]
    return verdicts(trial_rows(specs, paired(95.0, differences)), rule)


def words(rows: list[dict[str, Any]]) -> list[str]:
    return [row["verdict"] for row in rows]


# -- who is compared with whom -----------------------------------------------------------------------------------------


def test_groups_are_tickets_but_for_their_seeds() -> None:
    specs = [*digits_like(), *ladder(64, seeds=2, order_seed=7)]
    rows = trial_rows(specs, lambda spec: 0.9)
    groups = pairs.find_groups(
        sorted(rows, key=lambda row: (row["rewind_epoch"] == 1, -row["seed"], row["trial"][::-1]))
    )
    assert [(group.ladder, group.spec["target_sparsity_pct"]) for group in groups] == [
        (f"digits-lenet_300_100-imp-r{k}", target) for k in (0, 1) for target in (64.0, 87.04, 92.22)
    ]
    assert [len(group.members) for group in groups] == [7, 5, 5, 5, 5, 5]


def test_names_lose_seeds_and_target_only() -> None:
    spec = TrialSpec(target_sparsity_pct=87.04, order_seed=4, lr=0.01, seed=3)
    assert spec.name == "digits-lenet_300_100-imp-s87.04-r0-lr0.01-order4-seed3"
    assert pairs.group_name(spec.name) == "digits-lenet_300_100-imp-s87.04-r0-lr0.01"
    assert pairs.ladder_name(pairs.group_name(spec.name)) == "digits-lenet_300_100-imp-r0-lr0.01"
    assert pairs.ladder_name(pairs.group_name(dense()[0].name)) == "digits-lenet_300_100-dense"


def test_fields_that_a_baseline_must_share() -> None:
    acting = pairs._acting_fields(trial_rows(dense(1), lambda spec: 0.9))
    assert acting == [
        "dataset", "split_seed", "batch_size", "model", "optimizer", "lr", "momentum", "beta2", "eps", "weight_decay",
        "precision", "augment", "lr_policy",
    ]  # fmt: skip
    moving = dense(1, lr_policy="steps", warmup_pct=0.1)
    assert pairs._acting_fields(trial_rows(moving, lambda spec: 0.9))[len(acting) :] == [
        "warmup_pct", "lr_drops", "lr_drop_factor",
    ]  # fmt: skip


@pytest.mark.parametrize("field", ["lr", "batch_size", "weight_decay", "optimizer", "split_seed"])
def test_a_dense_trial_of_another_setting_is_no_baseline(field: str) -> None:
    other = {"lr": 0.01, "batch_size": 30, "weight_decay": 0.1, "optimizer": "sgd", "split_seed": 1}[field]
    found = pairs.compare(trial_rows([*dense(**{field: other}), *ladder(64)], lambda spec: 0.9), "test_accuracy")
    assert [(c.baseline, c.baseline_group, c.n_pairs, c.n_unpaired) for c in found] == [("dense-e20", None, 0, 5)]
    row = verdicts(trial_rows([*dense(**{field: other}), *ladder(64)], lambda spec: 0.9), RULE)[0]
    assert row["why"] == "the run has no dense baseline of 20 epochs"
    assert row["verdict"] == "undecided"


def test_every_number_of_dense_epochs_is_a_baseline_and_the_equal_one_primary() -> None:
    specs = [*dense(epochs=5), *dense(), *ladder(50, schedule="iterative")]
    found = pairs.compare(trial_rows(specs, lambda spec: 0.9), "test_accuracy")
    assert [(c.baseline, c.primary, c.baseline_group, c.n_pairs) for c in found] == [
        ("dense-e20", True, "digits-lenet_300_100-dense", 5),
        ("dense-e5", False, "digits-lenet_300_100-dense-e5", 5),
    ]


def test_pairs_are_of_one_seed_whatever_the_order_of_rows() -> None:
    rows = trial_rows([*dense(), *ladder(64)], lambda spec: 0.9 + 0.01 * spec.seed + 0.001 * spec.is_dense)
    found = pairs.compare(rows[::-1], "test_accuracy")[0]
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.differences_pp == pytest.approx([-0.1] * 5)


def test_broken_pairs_are_counted_and_left_out() -> None:
    rows = trial_rows([*dense(6), *ladder(64, seeds=7)], lambda spec: 0.9)
    by_name = {row["trial"]: row for row in rows}
    by_name["digits-lenet_300_100-imp-s64-r0-seed0"].update(status="diverged", test_accuracy=None)
    by_name["digits-lenet_300_100-dense-seed1"].update(status="failed", test_accuracy=None)
    by_name["digits-lenet_300_100-imp-s64-r0-seed2"].update(data_digest="e" * 64)
    found = pairs.compare(rows, "test_accuracy")[0]
    assert (found.seeds, found.n_unpaired) == ((3, 4, 5), 4)  # seed 6 has no dense trial


def test_a_diverged_trial_never_enters_even_with_a_number() -> None:
    rows = trial_rows([*dense(), *ladder(64)], lambda spec: 0.9)
    rows[0]["status"] = "diverged"
    assert pairs.compare(rows, "test_accuracy")[0].seeds == (1, 2, 3, 4)


def test_order_seeds_of_one_seed_are_one_replicate() -> None:
    specs = [*dense(), *ladder(64), *ladder(64, order_seed=9)]
    rows = trial_rows(specs, lambda spec: 0.9 if spec.is_dense else 0.92 if spec.order_seed == 9 else 0.91)
    found = pairs.compare(rows, "test_accuracy")[0]
    assert found.n_pairs == 5
    assert found.differences_pp == pytest.approx([1.5] * 5)


# -- every word --------------------------------------------------------------------------------------------------------


def test_each_word_is_reachable() -> None:
    assert words(judge({50: UP})) == ["beats dense"]
    assert words(judge({50: SAME})) == ["matches dense"]
    assert words(judge({50: BELOW})) == ["falls short"]
    assert words(judge({50: VAGUE})) == ["undecided"]


def test_numbers_of_a_row() -> None:
    row = judge({50: SAME})[0]
    d = np.array(SAME)
    assert row["difference_pp"] == pytest.approx(d.mean())
    assert row["sd_pp"] == pytest.approx(d.std(ddof=1))
    assert row["p_matches"] == pytest.approx(scipy_stats.ttest_1samp(d, -1, alternative="greater").pvalue, abs=1e-10)
    assert row["p_beats"] == pytest.approx(scipy_stats.ttest_1samp(d, 0, alternative="greater").pvalue, abs=1e-10)
    assert row["p_falls_short"] == pytest.approx(1 - row["p_matches"])
    assert row["p_sign_flip"] == 1 / 32
    assert row["mean_ticket"] - row["mean_dense"] == pytest.approx(d.mean() / 100)
    assert row["mean_dense"] == pytest.approx(0.952)
    assert row["resolution_pp"] == pytest.approx(100 / 360)
    assert (row["matches"], row["beats"], row["primary"], row["n_pairs"]) == (True, False, True, 5)
    assert row["why"] == "at most 1 pp below dense (p < 0.001)"
    assert row["sparsity_pct"] == pytest.approx(50, abs=0.01)


@pytest.mark.parametrize("differences", [UP, SAME, BELOW])
def test_below_five_pairs_no_claim_holds(differences: Sequence[float]) -> None:
    for seeds in (1, 2, 3, 4):
        row = judge({50: differences}, seeds=seeds)[0]
        assert (row["verdict"], row["matches"], row["beats"]) == ("undecided", None, None)
        assert (row["p_beats_holm"], row["p_falls_short_holm"]) == (None, None)
        assert row["why"] == f"needs at least 5 seeds, has {seeds}"
    assert judge({50: differences})[0]["verdict"] != "undecided"


def test_too_few_pairs_say_how_many_are_broken() -> None:
    rows = trial_rows([*dense(), *ladder(64)], lambda spec: 0.9)
    rows[0].update(status="diverged", test_accuracy=None)
    assert verdicts(rows, RULE)[0]["why"] == "needs at least 5 seeds, has 4; 1 planned seed lacks a finished pair"


def test_the_ladder_stops_and_says_where() -> None:
    rows = judge({50: SAME, 64: VAGUE, 80: SAME, 90: BELOW})
    assert words(rows) == ["matches dense", "undecided", "undecided", "falls short"]
    assert [row["matches"] for row in rows] == [True, False, None, None]
    assert "seeds would" in rows[1]["why"]
    assert rows[2]["why"] == "the ladder stopped at 64 %"
    assert rows[2]["p_matches"] < 0.05, "the rung itself would have matched"


def test_a_rung_without_enough_pairs_stops_the_ladder() -> None:
    specs = [*dense(), *ladder(64, seeds=3), *ladder(87.04)]
    rows = verdicts(trial_rows(specs, paired(95.0, {64: SAME, 87.04: SAME})), RULE)
    assert [row["why"] for row in rows] == ["needs at least 5 seeds, has 3", "the ladder stopped at 64 %"]


def test_each_ladder_and_each_baseline_is_a_sequence_of_its_own() -> None:
    tickets = [spec for k in (0, 1) for spec in ladder(50, 80, rewind_epoch=k, schedule="one_shot")]
    dense_pct = {20: 95.0, 5: 94.0, 3: 96.0}

    def accuracy(spec: TrialSpec) -> float:
        if spec.is_dense:
            return dense_pct[spec.epochs] / 100
        bad = spec.rewind_epoch == 0 and spec.target_sparsity_pct == 50
        return (95 + (SLIGHTLY_BELOW if bad else SAME)[spec.seed]) / 100

    specs = [*(spec for epochs in dense_pct for spec in dense(epochs=epochs)), *tickets]
    rows = verdicts(trial_rows(specs, accuracy), RULE)
    found = {(row["rewind_epoch"], row["baseline"], row["target_sparsity_pct"]): row["matches"] for row in rows}
    assert [found[0, "dense-e20", s] for s in (50, 80)] == [False, None]
    assert [found[1, "dense-e20", s] for s in (50, 80)] == [True, True]
    assert [found[0, "dense-e5", s] for s in (50, 80)] == [True, True]
    assert [found[0, "dense-e3", s] for s in (50, 80)] == [False, None]


def test_holm_is_over_the_primary_comparisons_and_over_the_secondary_ones_apart() -> None:
    specs = [*dense(), *dense(epochs=5), *ladder(50, 80, schedule="one_shot"), *ladder(50, schedule="agp")]
    targets = {50: UP, 80: [0.5, -0.1, 0.6, 0.2, 0.4]}
    rows = verdicts(trial_rows(specs, paired(95.0, targets)), RULE)
    assert [row["primary"] for row in rows] == [True] * 3 + [False] * 3
    for primary in (True, False):
        family = [row for row in rows if row["primary"] is primary]
        assert [row["p_beats_holm"] for row in family] == pytest.approx(stats.holm([row["p_beats"] for row in family]))


def test_untested_comparisons_count_in_holm() -> None:
    """One of two groups has 3 seeds only: the other's p is still doubled."""
    specs = [*dense(), *ladder(50, schedule="one_shot"), *ladder(50, seeds=3, schedule="agp")]
    rows = verdicts(trial_rows(specs, paired(95.0, {50: UP})), RULE)
    assert rows[0]["p_beats_holm"] == pytest.approx(2 * rows[0]["p_beats"])
    assert rows[1]["p_beats_holm"] is None


def test_equal_differences_are_decided_by_the_sign_flip_and_say_so() -> None:
    row = judge({50: [0.5] * 5})[0]
    assert (row["test"], row["sd_pp"], row["p_beats"], row["hedges_g"]) == ("sign flip", 0.0, 1 / 32, None)
    assert row["verdict"] == "beats dense"
    assert row["why"].endswith("all differences are equal, so the sign-flip test decides")
    strict = judge({50: [0.5] * 5}, Rule(margin_pp=1.0, alpha=0.01))[0]
    assert strict["why"].startswith("about 7 seeds would decide")  # 2^-7 < 0.01 < 2^-6


@pytest.mark.parametrize("differences", [VAGUE, [-2.2, -0.4, 0.3, -1.3, 0.1]])
def test_seeds_that_would_decide(differences: list[float]) -> None:
    """6.2 (sd / delta)^2, delta the distance of the mean from the margin."""
    expected = math.ceil(6.183 * (np.std(differences, ddof=1) / (np.mean(differences) + 1)) ** 2)
    assert 6 < expected <= 1000
    assert judge({50: differences})[0]["why"] == f"about {expected} seeds would decide at 80 % power"


def test_no_number_of_seeds_is_promised_on_the_margin() -> None:
    why = judge({50: [-1.5, -0.5, -1.2, -0.8, -1.0]})[0]["why"]
    assert why == "the difference is too close to the margin: more than 1,000 seeds would be needed"


def test_below_the_margin_the_seeds_are_for_falling_short_after_holm() -> None:
    alone = judge({50: SLIGHTLY_BELOW})[0]["why"]
    assert alone.startswith("about ")
    several = judge({50: SLIGHTLY_BELOW, 80: BELOW, 90: BELOW})[0]["why"]
    assert int(several.split()[1]) > int(alone.split()[1])


def test_margin_alpha_and_endpoint_are_the_plans() -> None:
    differences = {50: [-0.7, -0.9, -0.8, -0.6, -0.8]}
    assert words(judge(differences)) == ["matches dense"]
    assert words(judge(differences, Rule(margin_pp=0.5))) == ["falls short"]
    assert words(judge({50: [0.9, -0.4, 0.5, -0.2, 0.6]}, Rule(margin_pp=0.5, alpha=0.001))) == ["undecided"]
    rows = trial_rows([*dense(), *ladder(50, schedule="omp")], paired(95.0, {50: BELOW}))
    for row in rows:
        row["valid_accuracy"] = 0.9 + 0.001 * (row["seed"] - 2) * (row["control"] == "none")
    row = verdicts(rows, Rule(endpoint="valid_accuracy", margin_pp=1.0))[0]
    assert (row["endpoint"], row["verdict"]) == ("valid_accuracy", "matches dense")
    assert row["resolution_pp"] == pytest.approx(100 / 287)


# -- simulated nulls ---------------------------------------------------------------------------------------------------

SIMULATIONS = 500
NOISE = 4 * math.sqrt(0.05 * 0.95 / SIMULATIONS)  # four standard errors of a binomial part of 5 %


def simulated(rows: list[dict[str, Any]], mean_pp: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Verdicts of one simulated sweep: tickets differ from dense by `mean_pp` on average, sd 0.8 pp."""
    seed_effect = rng.normal(95, 0.6, 100)
    drawn = [
        row
        | {"test_accuracy": (seed_effect[row["seed"]] + (row["control"] == "none") * rng.normal(mean_pp, 0.8)) / 100}
        for row in rows
    ]
    return verdicts(drawn, RULE)


def rate(specs: list[TrialSpec], mean_pp: float, column: str, wanted: Any) -> float:
    """Part of the simulated sweeps in which at least one comparison has the wanted value."""
    rng, rows = np.random.default_rng(11), trial_rows(specs, lambda spec: 0.9)
    hits = [any(row[column] == wanted for row in simulated(rows, mean_pp, rng)) for _ in range(SIMULATIONS)]
    return sum(hits) / SIMULATIONS


def test_matching_holds_alpha_down_a_whole_ladder() -> None:
    """All three rungs lie exactly on the margin: the chance of any false "matches" is alpha, no less and no more."""
    assert abs(rate([*dense(), *ladder(64, 87.04, 92.22)], -1.0, "matches", True) - 0.05) < NOISE


def test_beating_holds_alpha_alone_and_over_a_family() -> None:
    assert abs(rate([*dense(), *ladder(64)], 0.0, "beats", True) - 0.05) < NOISE
    family = rate([*dense(), *ladder(64, 87.04, 92.22)], 0.0, "beats", True)
    assert 0 < family < 0.05 + NOISE


def test_falling_short_holds_alpha_over_a_family() -> None:
    assert 0 < rate([*dense(), *ladder(64, 87.04, 92.22)], -1.0, "verdict", "falls short") < 0.05 + NOISE


def test_effects_are_found_at_their_power() -> None:
    """At 8 pairs the noncentral t gives the power of one comparison without correction."""
    d, n = 1.0 / 0.8, 8
    critical = scipy_stats.t.ppf(0.95, n - 1)
    power = scipy_stats.nct.sf(critical, n - 1, d * math.sqrt(n))
    found = rate([*dense(n), *ladder(64, seeds=n)], 0.0, "matches", True)
    assert abs(found - power) < 4 * math.sqrt(power * (1 - power) / SIMULATIONS)
