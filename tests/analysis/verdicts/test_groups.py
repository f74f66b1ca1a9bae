"""Who is compared with whom: groups, pairs, dense networks of every budget, controls."""

from __future__ import annotations

import math
from typing import Any

import pytest

from analysis.labels import group_name, ladder_name
from analysis.verdicts import baselines
from analysis.verdicts.baselines import Candidate, find_candidates
from analysis.verdicts.groups import Pairs, find_groups, pair_up
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import control_rows, dense, digits_like, ladder, trial_rows, with_early_stop, with_fields

FIVE = (0, 0, 0, 0, 0)


def primary(rows: list[dict[str, Any]], column: str = "test_accuracy") -> Pairs:
    """Pairs of the only candidate with its primary baseline."""
    (candidate,) = find_candidates(rows)
    return pair_up(candidate.group.members, candidate.dense.rows, column, "dense")


def named(candidate: Candidate) -> list[tuple[str, str, int]]:
    return [(b.name, b.kind, len(b.rows)) for b in candidate.baselines]


def test_groups_are_tickets_but_for_their_seeds() -> None:
    specs = [*digits_like(), *ladder(64, seeds=2, order_seed=7)]
    rows = trial_rows(specs, lambda spec: 0.9)
    groups = find_groups(sorted(rows, key=lambda row: (row["rewind_epoch"] == 1, -row["seed"], row["trial"][::-1])))
    assert [(group.ladder, group.target) for group in groups] == [
        (f"digits-lenet_300_100-imp-r{k}", target) for k in (0, 1) for target in (64.0, 87.04, 92.22)
    ]
    assert [len(group.members) for group in groups] == [7, 5, 5, 5, 5, 5]


def test_names_lose_seeds_and_target_only() -> None:
    spec = TrialSpec(target_sparsity_pct=87.04, order_seed=4, lr=0.01, seed=3)
    assert spec.name == "digits-lenet_300_100-imp-s87.04-r0-lr0.01-order4-seed3"
    assert group_name(spec.name) == "digits-lenet_300_100-imp-s87.04-r0-lr0.01"
    assert ladder_name(group_name(spec.name)) == ladder_name(spec.name) == "digits-lenet_300_100-imp-r0-lr0.01"
    assert ladder_name(dense()[0].name) == "digits-lenet_300_100-dense"


def test_fields_that_a_dense_baseline_must_share() -> None:
    acting = baselines._acting_fields(trial_rows(dense(1), lambda spec: 0.9))
    assert {"dataset", "split_seed", "batch_size", "model", "optimizer", "lr", "weight_decay", "precision"} < set(
        acting
    )
    assert not {"seed", "order_seed", "control", "epochs", "layers", "schedule", "rewind_epoch"} & set(acting)
    moving = dense(1, lr_policy="steps", warmup_pct=0.1)
    assert set(baselines._acting_fields(trial_rows(moving, lambda spec: 0.9))) - set(acting) == {
        "warmup_pct", "lr_drops", "lr_drop_factor",
    }  # fmt: skip


@pytest.mark.parametrize("field", ["lr", "batch_size", "weight_decay", "optimizer", "split_seed"])
def test_a_dense_trial_of_another_setting_is_no_baseline(field: str) -> None:
    other = {"lr": 0.01, "batch_size": 30, "weight_decay": 0.1, "optimizer": "sgd", "split_seed": 1}[field]
    rows = trial_rows([*dense(**{field: other}), *ladder(64)], lambda spec: 0.9)
    (candidate,) = find_candidates(rows)
    assert named(candidate) == [("dense-e20", "dense", 0)] and candidate.dense.group is None
    assert primary(rows).why_broken == "no dense trial (seeds 0, 1, 2, 3, 4)"


def test_every_number_of_dense_epochs_is_a_baseline_and_the_tickets_own_comes_first() -> None:
    rows = trial_rows([*dense(epochs=5), *dense(), *dense(epochs=120), *ladder(50, schedule="imp")], lambda spec: 0.9)
    for row in rows:
        row["epochs_total"] = 120 if row["control"] == "none" else row["epochs"]
    (candidate,) = find_candidates(rows)
    assert named(candidate) == [
        ("dense-e20", "dense", 5), ("dense-e5", "dense_other", 5), ("dense-e120", "dense_stretched", 5),
    ]  # fmt: skip


def test_a_dense_network_of_the_budget_of_other_tickets_is_theirs_alone() -> None:
    specs = [*dense(), *dense(epochs=5), *dense(epochs=60), *dense(epochs=120), *ladder(64, 87.04)]
    rows = trial_rows(specs, lambda spec: 0.9)
    for row in rows:
        row["epochs_total"] = {64.0: 60, 87.04: 120}.get(row["target_sparsity_pct"], row["epochs"])
    for candidate, total in zip(find_candidates(rows), (60, 120), strict=True):
        assert [name for name, _, _ in named(candidate)] == ["dense-e20", "dense-e5", f"dense-e{total}"]


def test_within_one_fit_the_total_budget_is_the_tickets_own() -> None:
    rows = trial_rows([*dense(), *ladder(50, schedule="iterative")], lambda spec: 0.9)
    for row in rows:
        row["epochs_total"] = 20
    assert named(find_candidates(rows)[0]) == [("dense-e20", "dense", 5)]


def test_controls_and_restarts_belong_to_the_ticket_that_they_equal() -> None:
    rows = trial_rows([*dense(), *ladder(64, 87.04)], lambda spec: 0.9)
    tickets = [row for row in rows if row["target_sparsity_pct"] == 64]
    rows += [*control_rows(tickets, "reinit", FIVE), *control_rows(tickets, "dense_restarts", FIVE)]
    first, second = find_candidates(rows)
    assert named(first) == [("dense-e20", "dense", 5), ("reinit", "reinit", 5), ("dense_restarts", "dense_restarts", 5)]
    assert named(second) == [("dense-e20", "dense", 5)]
    assert [b.name for b in first.controls] == ["reinit"]


def test_a_small_dense_network_is_no_dense_baseline_and_belongs_to_the_ticket_of_its_size() -> None:
    rows = trial_rows([*dense(), *ladder(64, 87.04)], lambda spec: 0.9)
    kept = {row["target_sparsity_pct"]: row["n_kept"] for row in rows}
    narrow = [
        with_fields(row, width_pct=width) | {"n_weights": n}
        for width, n in ((40.0, round(kept[64.0] * 1.03)), (35.0, round(kept[64.0] * 0.94)), (9.0, 2 * kept[87.04]))
        for row in rows
        if row["control"] == "dense"
    ]
    first, second = find_candidates([*rows, *narrow])
    assert named(first) == [("dense-e20", "dense", 5), ("small_dense", "small_dense", 5)]
    assert {row["width_pct"] for row in first.of("small_dense")[0].rows} == {40.0}, "the nearest"
    assert named(second) == [("dense-e20", "dense", 5)], "none within a tenth of its weights"


def test_pairs_are_of_one_seed_whatever_the_order_of_rows() -> None:
    rows = trial_rows([*dense(), *ladder(64)], lambda spec: 0.9 + 0.01 * spec.seed + 0.001 * spec.is_dense)
    found = primary(rows[::-1])
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.differences == pytest.approx([-0.001] * 5)


def test_broken_pairs_are_left_out_and_say_why() -> None:
    rows = trial_rows([*dense(7), *ladder(64, seeds=8)], lambda spec: 0.9)
    by_name = {row["trial"]: row for row in rows}
    for seed, status in ((0, "missing"), (4, "excluded"), (5, "excluded")):
        by_name[f"digits-lenet_300_100-imp-s64-r0-seed{seed}"].update(status=status)
    by_name["digits-lenet_300_100-dense-seed1"].update(status="failed", test_accuracy=None)
    by_name["digits-lenet_300_100-imp-s64-r0-seed2"].update(data_digest="e" * 64)
    by_name["digits-lenet_300_100-imp-s64-r0-seed6"].update(test_accuracy=None)
    found = primary(rows)
    assert found.seeds == (3,)
    assert found.why_broken == (
        "ticket missing (seed 0); dense failed (seed 1); other data (seed 2); ticket excluded (seeds 4, 5); "
        "no test_accuracy (seed 6); no dense trial (seed 7)"
    )

    assert found.why_unfinished == "ticket missing (seed 0); dense failed (seed 1)"


def diverge(row: dict[str, Any]) -> None:
    row.update(status="diverged", test_accuracy=None, early_stop_iteration=None, early_stop_censored=None)


def test_a_diverged_trial_enters_its_pair_at_chance_on_either_side() -> None:
    rows = trial_rows([*dense(), *ladder(64)], lambda spec: 0.9)
    by_name = {row["trial"]: row for row in rows}
    for name in ("imp-s64-r0-seed1", "dense-seed2", "imp-s64-r0-seed3", "dense-seed3"):
        diverge(by_name[f"digits-lenet_300_100-{name}"])
    found = primary(rows)
    assert found.differences == pytest.approx([0, -0.8, 0.8, 0, 0])
    assert (found.diverged, found.finished().seeds) == ({1, 2, 3}, (0, 4))
    assert (found.before(3).diverged, found.broken) == ({1, 2}, {})


def test_the_early_stop_of_a_diverged_trial_never_comes() -> None:
    rows = with_early_stop(trial_rows([*dense(), *ladder(64)], lambda spec: 0.9), [100] * 5, [200] * 5)
    by_name = {row["trial"]: row for row in rows}
    for name in ("imp-s64-r0-seed1", "dense-seed2", "imp-s64-r0-seed3", "dense-seed3"):
        diverge(by_name[f"digits-lenet_300_100-{name}"])
    found = primary(rows, "early_stop_from_init")
    assert (found.n_censored, found.n_late) == (3, 0), "not: the loss was still falling"
    assert (found.tickets[1], found.others[2]) == (math.inf, math.inf)


def test_order_seeds_of_one_seed_are_one_replicate() -> None:
    specs = [*dense(), *ladder(64), *ladder(64, order_seed=9)]
    found = primary(
        trial_rows(specs, lambda spec: 0.9 if spec.is_dense else 0.92 if spec.order_seed == 9 else 0.91)
    )  # fmt: skip
    assert found.n == 5
    assert found.differences == pytest.approx([0.015] * 5)


def test_censored_values_are_marked() -> None:
    rows = with_early_stop(
        trial_rows([*dense(), *ladder(64)], lambda spec: 0.9), [100, 400, 120, 400, 80], [200, 200, 400, 400, 60]
    )
    found = primary(rows, "early_stop_from_init")
    assert found.tickets_censored == (False, True, False, True, False)
    assert found.others_censored == (False, False, True, True, False)
    assert found.n_censored == 3
    assert primary(rows).n_censored == 0, "of accuracies nothing is"


def test_pairs_of_the_first_seeds() -> None:
    rows = trial_rows([*dense(8), *ladder(64, seeds=8)], lambda spec: 0.9 + 0.001 * spec.seed)
    rows[1].update(status="failed")
    rows[6].update(status="failed")
    cut = primary(rows).before(5)
    assert (cut.seeds, cut.tickets, dict(cut.broken)) == (
        (0, 2, 3, 4), (0.9, 0.902, 0.903, 0.904), {1: "dense failed"},
    )  # fmt: skip
