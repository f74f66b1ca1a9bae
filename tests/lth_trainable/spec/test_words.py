"""One table says how a field is written, in names and for people."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.words import FIELD_WORDS, field_words, name_part


def test_each_field_has_its_words() -> None:
    assert set(FIELD_WORDS) == {f.name for f in fields(TrialSpec)}
    assert list(FIELD_WORDS)[-1] == "seed"
    assert all(field_words("control", control) for control in CONTROLS)


@pytest.mark.parametrize(
    ("name", "value", "in_name", "for_people"),
    [
        ("target_sparsity_pct", 64.0, "s64", "64 %"),
        ("rewind_epoch", 1, "r1", "rewind epoch 1"),
        ("rewind_step", 500, "r500it", "rewind iteration 500"),
        ("lr", 0.003, "lr0.003", "learning rate 0.003"),
        ("schedule", "omp", "omp", "OMP"),
        ("schedule", "tests.plugins:late_schedule", "tests.plugins.late_schedule", "tests.plugins:late_schedule"),
        ("retrain", "lr_rewinding", "retrain_lr_rewinding", "LR rewinding"),
        ("reset_end", True, "supermask_True", "supermask"),
        ("lr_policy", "one_cycle", "lr_one_cycle", "one cycle learning rate"),
        ("ticket", "ab" * 32 + "-masked-e3", "tabababab.e3", "imported ticket abababab.e3"),
    ],
)
def test_a_value_in_a_name_and_in_words(name: str, value: Any, in_name: str, for_people: str) -> None:
    assert name_part(name, value) == in_name
    assert field_words(name, value) == for_people


def test_what_goes_without_saying_has_no_words() -> None:
    assert [field_words(*pair) for pair in (("control", "none"), ("reset_end", False), ("rewind_epoch", None))] == [
        ""
    ] * 3
