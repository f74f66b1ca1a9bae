"""Dense networks that are restarted as often as their tickets, with nothing pruned."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial
from tests.support.plans import planned
from tests.support.watch import COLUMNS, differing, start_of, watched

CNN: dict[str, Any] = {"model": "tests.plugins:tiny_cnn", "batch_size": 230, "epochs": 2, "target_sparsity_pct": 64}


@pytest.mark.parametrize(
    "fields",
    [
        {"rewind_epoch": 0}, {"rewind_epoch": 5}, {"rewind_epoch": "45it"}, {"rewind_optimizer": "fresh"},
        {"schedule": "agp"}, {"schedule": "one_shot", "retrain": "none"},
    ],
)  # fmt: skip
def test_restarts_that_bring_everything_back_are_the_dense_run(fields: dict[str, Any]) -> None:
    spec = TrialSpec(control="dense_restarts", target_sparsity_pct=64, **fields)
    assert spec == TrialSpec(control="dense") and spec.name == TrialSpec(control="dense").name
    assert len(spec.notes) == 1 and "dense network of T epochs" in spec.notes[0]


RESTARTS: list[dict[str, Any]] = [
    {"rewind_epoch": 1, "rewind_optimizer": "fresh"}, {"rewind_epoch": "7it", "rewind_optimizer": "fresh"},
    {"retrain": "lr_rewinding"}, {"retrain": "fine_tuning"},
]  # fmt: skip


@pytest.mark.parametrize("fields", RESTARTS)
def test_other_restarts_are_the_tickets_with_nothing_pruned(
    fields: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrialSpec(**{**CNN, **fields, "control": "dense_restarts", "lr_policy": "cosine"})
    record = run_trial(spec, store)
    assert record["result"]["n_kept"] == record["result"]["n_weights"]
    assert {row["sparsity_pct"] for row in record["epochs"]} == {0.0}
    dense = run_trial(replace(spec, control="dense"), store)
    assert record["sha256"]["weights"] != dense["sha256"]["weights"]
    monkeypatch.setattr(TrialSpec, "level_sparsities", property(lambda _: (Fraction(0), Fraction(0))))
    ticket = run_trial(replace(spec, control="none"), Store(f"{store.root}-ticket"))
    assert record["sha256"] == ticket["sha256"]


def test_a_fresh_optimiser_at_initialisation_is_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So dense_restarts of it is the dense run."""
    monkeypatch.setattr(TrialSpec, "level_sparsities", property(lambda _: (Fraction(0), Fraction(0))))
    ticket = TrialSpec(**{**CNN, "rewind_epoch": 0, "rewind_optimizer": "fresh"})
    dense = run_trial(replace(ticket, control="dense"), Store(f"{store.root}-dense"))
    assert run_trial(ticket, store)["sha256"]["weights"] == dense["sha256"]["weights"]


def test_resets_within_a_fit_with_nothing_pruned() -> None:
    fields = {"schedule": "one_shot", "rewind_epoch": 1, "start_pct": 0.5}
    ours, first = start_of("dense_restarts", **fields)
    dense, ticket = watched((("control", "dense"),)).seen, watched(tuple(fields.items()))
    assert first == 10 and not differing(ours["weights"], dense[0, 5]["weights"])
    for column in COLUMNS[1:]:
        assert not differing(ours[column], ticket.seen[1, 10][column]), column


def test_restarts_of_one_kind_share_their_levels_whatever_is_pruned() -> None:
    specs = [
        TrialSpec(control="dense_restarts", retrain="lr_rewinding", target_sparsity_pct=s, criterion=criterion)
        for s in (64, 87.04) for criterion in ("large_final", "random")
    ]  # fmt: skip
    assert len({spec.name for spec in specs}) == 4 and planned(specs).epochs_distinct == 20 + 4 * 20
