"""The set-up table of the report, and the sentence on what a run does not show."""

from __future__ import annotations

import pytest

from analysis.report.set_up import set_up
from analysis.tables.run_plan import Rule
from analysis.verdicts.answer import about_initialisation
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


def test_networks_that_were_trained_as_one_are_told(rows: Rows) -> None:
    assert "networks trained as one" not in dict(set_up(rows, []))
    some = [{**row, "replicas": 32 if row["role"] == "ticket" else 1} for row in rows]
    assert dict(set_up(some, []))["networks trained as one"] == "1, 32"


def test_a_run_without_a_finished_trial_has_the_versions_of_its_plan(rows: Rows) -> None:
    unfinished = [{**row, **dict.fromkeys(("n_train", "n_valid", "n_test", "device", "torch_version"))} for row in rows]
    found = dict(set_up(unfinished, [("torch", "2.9.0")]))
    assert found["data"] == "digits" and found["versions"] == "torch 2.9.0" and "device" not in found
    assert set_up([], []) == []


def said(rows: Rows, ahead_pp: list[float]) -> str:
    """What is said of tickets that are so many percentage points ahead of their reinitialisation, by seed."""
    reinit = [{**row, "role": "control"} for row in control_rows(rows, "reinit", ahead_pp)]
    return about_initialisation(verdicts([*rows, *reinit], Rule())) or ""


def test_without_reinitialised_tickets_nothing_is_claimed_about_the_initialisation(rows: Rows) -> None:
    assert "nothing is claimed about the initialisation" in (about_initialisation(verdicts(rows, Rule())) or "")
    other = [{**row, "role": "control"} for row in control_rows(rows, "random_mask", [2.0] * 5)]
    sentence = about_initialisation(verdicts([*rows, *other], Rule()))
    assert "nothing is claimed about the initialisation" in (sentence or "")
    assert about_initialisation([]) is None


def test_with_reinitialised_tickets_the_answer_says_whether_the_initialisation_is_shown_to_matter(rows: Rows) -> None:
    assert said(rows, [2.0, 2.1, 1.9, 2.0, 2.1]) == (
        "The initialisation is shown to matter in 2 of 2 comparisons: there the tickets beat the same masks trained "
        "from another initialisation (reinit; +2.02 pp on average)."
    )
    unclear, worse = said(rows, [-1.0, 1.0, 0.0, 2.0, -2.1]), said(rows, [-2.0, -2.1, -1.9, -2.0, -2.1])
    assert unclear.startswith("It is not shown that the initialisation matters: tickets minus the same masks")
    assert unclear.endswith("are −0.02 pp on average, and in none of 2 comparisons is the ticket shown to be better.")
    assert worse.endswith("shown to be better; in 2 of them the ticket is shown to be worse.")


def test_an_interval_above_zero_that_a_correction_undoes_is_told(rows: Rows) -> None:
    ahead = [2.2, 0.9, 0.5, 1.6, 0.3]  # p is between 0.025 / 2 and 0.025
    assert "(2 of the 95 % intervals lie above 0, but not after Holm's correction over 2)" in said(rows, ahead)


def test_an_interval_above_zero_with_few_seeds_is_told_with_that_reason(rows: Rows) -> None:
    few, ahead = [row for row in rows if row["seed"] < 4], [2.0] * 4
    reason = "above 0, but nothing is decided with fewer than 5 seeds)"
    assert f"(2 of the 95 % intervals lie {reason}" in said(few, ahead)
    alone = said([row for row in few if row["target_sparsity_pct"] in (None, 64)], ahead)
    assert f"in the only one the ticket is not shown to be better (1 of the 95 % intervals lies {reason}" in alone
