"""The set-up table of the report, and the sentence on what a run does not show."""

from __future__ import annotations

import pytest

from analysis.report.set_up import set_up
from analysis.tables.run_plan import Rule
from analysis.verdicts.answer import caution
from analysis.verdicts.claims import verdicts
from tests.support.records import control_rows, dense, drops, ladder, trial_rows
from tests.support.verdicts import Rows

ACCURACY = drops({None: 0.965, 64: 0.964, 87.04: 0.966})


@pytest.fixture
def rows() -> Rows:
    found = trial_rows([*dense(), *ladder(64, 87.04)], ACCURACY)
    return [{**row, "role": "dense" if row["control"] == "dense" else "ticket"} for row in found]


def test_it_says_what_the_run_was_made_with(rows: Rows) -> None:
    found = dict(set_up(rows, []))
    assert found["data"] == "digits: 1,150 training, 287 validation, 360 test images (split seed 0)"
    assert found["network"] == "LeNet-300-100" and found["learning rate"] == "0.0012, constant"
    assert found["pruning"] == "IMP, large final, 40 % of the weights a level, to 64, 87.04 % sparsity"
    assert found["seeds"] == "5: 0 to 4" and found["epochs a level"] == "20" and found["batch"] == "60"
    assert found["rewound to"] == "rewind epoch 0" and found["precision"] == "fp32"
    assert "torch 2.14.1" in found["versions"] and found["device"] == "cpu: test"


def test_a_run_without_a_finished_trial_has_the_versions_of_its_plan(rows: Rows) -> None:
    unfinished = [{**row, **dict.fromkeys(("n_train", "n_valid", "n_test", "device", "torch_version"))} for row in rows]
    found = dict(set_up(unfinished, [("torch", "2.9.0")]))
    assert found["data"] == "digits" and found["versions"] == "torch 2.9.0" and "device" not in found
    assert set_up([], []) == []


def test_without_reinitialised_tickets_nothing_is_claimed_about_the_initialisation(rows: Rows) -> None:
    assert "nothing is claimed about the initialisation" in (caution(verdicts(rows, Rule())) or "")
    reinit = [{**row, "role": "control"} for row in control_rows(rows, "reinit", [2.0] * 5)]
    assert caution(verdicts([*rows, *reinit], Rule())) is None
    other = [{**row, "role": "control"} for row in control_rows(rows, "random_mask", [2.0] * 5)]
    assert caution(verdicts([*rows, *other], Rule())) is not None
    assert caution([]) is None
