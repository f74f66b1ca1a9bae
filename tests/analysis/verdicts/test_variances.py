"""The table of variances: which trials are crossed, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.report.variances import variance_view
from analysis.tables.run_plan import Rule
from analysis.tables.schema import table
from analysis.verdicts.variances import OF_DIFFERENCES, OF_TRIALS, variance_rows
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import trial_rows

RULE = Rule(margin_pp=1.0)
SEEDS, ORDERS = (0, 1, 2), (0, 1)


def accuracy(spec: TrialSpec) -> float:
    """The initialisation sets 0, 2 or 4 pp, the order 0 or 1; tickets get 3 pp more where both are 0."""
    order = spec.seed if spec.order_seed is None else spec.order_seed
    own = 0.0 if spec.is_dense or (spec.seed, order) != (0, 0) else 3.0
    return (90 + 2 * spec.seed + order + own) / 100


def crossed(**changes: Any) -> list[dict[str, Any]]:
    specs = [
        TrialSpec(seed=seed, order_seed=order, **fields)
        for seed in SEEDS for order in ORDERS for fields in ({"control": "dense"}, {"target_sparsity_pct": 64})
    ]  # fmt: skip
    return trial_rows(specs, accuracy, **changes)


def test_dense_networks_tickets_and_their_differences() -> None:
    """A trial without an order seed has its own seed as such, so seeds 0 and 1 are crossed with order seeds 0 and 1."""
    rows = variance_rows(crossed(), RULE)
    found = {(row["role"], row["of"]): row for row in rows}
    dense = next(row for row in rows if "dense" in row["group"])
    assert (dense["n_init"], dense["n_order"], dense["n_left_out"], dense["of"]) == (3, 2, 0, OF_TRIALS)
    assert (dense["var_init"], dense["var_order"], dense["var_both"]) == pytest.approx((4.0, 0.5, 0.0), abs=1e-9)
    assert dense["sd_init_pp"] == pytest.approx(2) and dense["share_init"] == pytest.approx(4 / 4.5)
    assert dense["mean_pp"] == pytest.approx(92.5)
    differences = next(row for row in rows if row["of"] == OF_DIFFERENCES)
    assert differences["mean_pp"] == pytest.approx(0.5) and differences["var_both"] > 0
    assert len(rows) == 3 and len(found) == len(rows), "dense, tickets, and tickets minus dense"
    assert table("variances", ({"run": "run", **row} for row in rows)).num_rows == 3
    assert variance_view(rows)[0]["init"] == "2.00 (89 %)"


def test_seeds_that_are_not_whole_are_left_out_and_diverged_trials_count_at_chance() -> None:
    rows = crossed()
    lost = next(row for row in rows if row["seed"] == 2 and row["control"] == "dense")
    lost |= {"status": "failed", "test_accuracy": None}
    diverged = next(row for row in rows if row["seed"] == 1 and row["control"] == "none")
    diverged |= {"status": "diverged", "test_accuracy": None}
    dense, tickets, differences = variance_rows(rows, RULE)
    assert (dense["n_init"], dense["n_left_out"], dense["n_diverged"]) == (2, 2, 0)
    assert (tickets["n_init"], tickets["n_diverged"]) == (3, 1) and tickets["var_both"] > 100
    assert differences["n_init"] == 2


def test_a_run_without_crossed_seeds_has_no_rows() -> None:
    assert variance_rows(trial_rows([TrialSpec(seed=s) for s in SEEDS], accuracy), RULE) == []
    apart = [TrialSpec(seed=s, order_seed=o) for s, o in ((0, 5), (0, 6), (1, 7), (1, 8))]
    assert variance_rows(trial_rows(apart, accuracy), RULE) == [], "each seed has order seeds of its own"
