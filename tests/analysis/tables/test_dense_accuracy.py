"""Epochs to the dense network's accuracy: reached, never reached, unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from analysis.tables import schema
from analysis.tables.clocks import clock_columns
from analysis.tables.record_rows import COLUMNS, epochs_to_dense_accuracy
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import trial_rows

DENSE = TrialSpec(control="dense", epochs=4)
TICKET = TrialSpec(target_sparsity_pct=64, epochs=4)
CURVE = (0.5, 0.92, 0.9, 0.95)


def found(
    curves: Mapping[TrialSpec, Sequence[float | None]], first: Sequence[float | None] = (), **changes: Any
) -> dict[str, tuple[int | None, bool | None]]:
    """The columns by trial. curves: validation accuracies since the last prune; the dense network ends at 0.9.

    first: those of the level before, of every ticket. changes: to every row.
    """
    rows = trial_rows(list(curves), lambda _: 0.9, **changes)
    epochs = [
        {"trial": spec.name, "level": level, "epoch": epoch, "valid_accuracy": accuracy}
        for spec, curve in curves.items()
        for level, values in enumerate((() if spec.is_dense else first, curve))
        for epoch, accuracy in enumerate(values)
    ]
    columns = epochs_to_dense_accuracy(rows, schema.table("epochs", epochs))
    assert all(tuple(entry) == COLUMNS for entry in columns)
    return {row["trial"]: tuple(entry.values()) for row, entry in zip(rows, columns, strict=True)}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [((0.9, 0.1), (1, False)), ((0.5, 0.6, 0.91), (3, False)), ((0.8999, 0.1), (None, True)), ((None, 0.9), (2, False)),
     ((), (None, True))],
)  # fmt: skip
def test_the_first_epoch_that_reaches_it_or_never(
    curve: Sequence[float | None], expected: tuple[int | None, bool | None]
) -> None:
    assert found({DENSE: CURVE, TICKET: curve})[TICKET.name] == expected


def test_epochs_before_the_last_prune_do_not_count() -> None:
    assert found({DENSE: CURVE, TICKET: (0.5, 0.9)}, first=(0.99, 0.99))[TICKET.name] == (2, False)


def test_the_dense_network_itself_has_its_own_end_as_its_mark() -> None:
    assert found({DENSE: CURVE})[DENSE.name] == (2, False)


@pytest.mark.parametrize(
    "fields",
    [{"seed": 1}, {"epochs": 5}, {"lr": 0.1}, {"batch_size": 30}, {"augment": "flip"}, {"lr_policy": "cosine"}],
)
def test_a_dense_network_of_another_seed_budget_or_optimisation_is_no_mark(fields: dict[str, Any]) -> None:
    assert found({replace(DENSE, **fields): CURVE, TICKET: CURVE})[TICKET.name] == (None, None)


@pytest.mark.parametrize("fields", [{"layers": "linear"}, {"order_seed": 3}, {"prune_rate_pct": 30.0}])
def test_what_does_not_act_in_the_dense_network_may_differ(fields: dict[str, Any]) -> None:
    ticket = replace(TICKET, **fields)
    assert found({DENSE: CURVE, ticket: CURVE})[ticket.name] == (2, False)


@pytest.mark.parametrize("fields", [{"retrain": "fine_tuning"}, {"retrain": "lr_rewinding"}])
def test_weights_that_are_not_rewound_have_no_clock(fields: dict[str, Any]) -> None:
    ticket = replace(TICKET, **fields)
    assert found({DENSE: CURVE, ticket: CURVE})[ticket.name] == (None, None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rewind_epoch": 1}, 3), ({"rewind_epoch": "30it"}, 3), ({"rewind_epoch": "40it"}, 4),
        ({"rewind_epoch": 1, "control": "layerwise_shuffle"}, 3), ({"rewind_epoch": 1, "control": "reinit"}, 2),
    ],
    ids=str,
)  # fmt: skip
def test_epochs_before_the_rewind_point_count(fields: dict[str, Any], expected: int) -> None:
    """Of 20 steps each. A level from iteration 30 first trains the rest of the second epoch, so it reaches two."""
    ticket = replace(TICKET, **fields)
    assert found({DENSE: CURVE, ticket: CURVE})[ticket.name] == (expected, False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rewind_epoch": 2}, 50), ({"rewind_epoch": "30it"}, 40), ({"rewind_epoch": 2, "control": "reinit"}, 10),
        ({"retrain": "fine_tuning"}, None), ({"control": "dense"}, 10),
        ({"schedule": "one_shot", "start_pct": 0.5, "rewind_epoch": 2}, 50),
        ({"schedule": "agp", "rewind_epoch": None}, None),
    ],
    ids=str,
)  # fmt: skip
def test_the_early_stop_counts_from_the_initialisation(fields: dict[str, Any], expected: int | None) -> None:
    (row,) = trial_rows([TrialSpec(**{"target_sparsity_pct": 64.0, "epochs": 4, **fields})], lambda _: 0.9)
    assert clock_columns(row | {"early_stop_iteration": 10}) == {"early_stop_from_init": expected}
    assert clock_columns(row | {"early_stop_iteration": None}) == {"early_stop_from_init": None}


def test_without_a_dense_network_or_a_finished_trial_it_is_unknown() -> None:
    assert found({TICKET: CURVE})[TICKET.name] == (None, None)
    assert set(found({DENSE: CURVE, TICKET: CURVE}, status="diverged").values()) == {(None, None)}


def test_a_supermask_ends_with_weights_that_its_epochs_did_not_train() -> None:
    mask = replace(TICKET, reset_end=True)
    assert found({DENSE: CURVE, mask: CURVE})[mask.name] == (None, None)


def test_other_data_are_no_mark() -> None:
    rows = trial_rows([DENSE, TICKET], lambda _: 0.9)
    rows[0]["data_digest"] = "another"
    epochs = schema.table("epochs", [{"trial": TICKET.name, "level": 2, "valid_accuracy": 0.9}])
    assert epochs_to_dense_accuracy(rows, epochs)[1] == dict.fromkeys(COLUMNS)


def test_several_dense_trials_of_a_seed_give_their_mean() -> None:
    other = replace(DENSE, order_seed=7)
    rows = trial_rows([DENSE, other, TICKET], lambda spec: 0.8 if spec is DENSE else 0.9)
    curve = (0.84, 0.86)
    epochs = schema.table("epochs", [{"trial": TICKET.name, "level": 2, "valid_accuracy": a} for a in curve])
    assert epochs_to_dense_accuracy(rows, epochs)[2]["epochs_to_dense_accuracy"] == 2
