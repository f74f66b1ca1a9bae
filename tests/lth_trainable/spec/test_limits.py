"""Whole numbers and floats of a spec against what tables can hold, through every door that has no Ray."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.draft import MOST, MOST_SEED
from lth_trainable.spec.rewind_point import RewindPoint
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.tune.config import Ticket

SEEDS = ("seed", "order_seed", "split_seed")
COUNTS = ("epochs", "batch_size", "prune_steps", "rewind_step", "validate_every", "image_size")
NEEDS: dict[str, dict[str, Any]] = {"prune_steps": {"schedule": "iterative"}, "image_size": {"dataset": "folder"}}
FLOATS = [field.name for field in fields(TrialSpec) if str(field.type).startswith("float")]


def test_every_whole_number_of_a_spec_is_looked_at_here() -> None:
    whole = {field.name for field in fields(TrialSpec) if str(field.type).startswith("int")}
    assert whole == {*SEEDS, *COUNTS, "rewind_epoch"}  # which is at most `epochs`


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("value", [-1, 2**63, 2**64, 10**400])
def test_seeds_that_no_table_can_hold_are_refused(name: str, value: int, tmp_path: Path) -> None:
    for door in (
        lambda: TrialSpec(**{name: value}),
        lambda: spec_from_dict({**TrialSpec().canonical(), name: value}),
        lambda: Ticket.of({name: value, "storage": str(tmp_path)}),
    ):
        with pytest.raises(UserError, match=f"{name}: found") as caught:
            door()
        assert len(str(caught.value)) < 600


def test_the_largest_seed_is_a_trial_of_its_own() -> None:
    for name in SEEDS:
        assert getattr(TrialSpec(**{name: MOST_SEED}), name) == MOST_SEED
    assert Ticket.of({"seed": 7.0}).spec.seed == 7


@pytest.mark.parametrize("name", COUNTS)
def test_counts_have_an_end_too(name: str) -> None:
    for value in (MOST + 1, 2**63, 10**400):
        with pytest.raises(UserError, match=f"{name}: found .* at most 1,000,000,000"):
            TrialSpec(**{**NEEDS.get(name, {}), name: value})
    with pytest.raises(UserError, match=f"{name}: found"):
        TrialSpec(**{**NEEDS.get(name, {}), name: 0})


@pytest.mark.parametrize("name", FLOATS)
def test_numbers_too_large_for_a_float_are_refused(name: str) -> None:
    kind = {"width_pct": {"control": "dense"}, "output_prune_rate_pct": {}}.get(name, {})
    with pytest.raises(UserError, match="expected"):
        TrialSpec(**{**kind, name: 10**400})


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 5000 + "it", "99999999999it"])
def test_a_rewind_point_of_thousands_of_digits_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="at most 10 digits"):
        RewindPoint.parse(text)
