"""Trials that diverged, failed or are missing: what they do to a verdict."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.verdicts.claims import verdicts
from analysis.verdicts.headlines import headlines
from tests.support.verdicts import BELOW, RULE, SAME, UP, Rows, of, trials

EIGHT = {name: [*d, *d[:3]] for name, d in (("up", UP), ("same", SAME), ("below", BELOW))}


def changed(kind: str, control: str, seeds: range, **status: Any) -> Rows:
    """Eight pairs of this kind; the tickets ("none") or dense networks of these seeds have another status."""
    rows = trials({50: EIGHT[kind]}, seeds=8)
    gone = {"test_accuracy": None, "valid_accuracy": None}
    return [row | status | gone if row["control"] == control and row["seed"] in seeds else row for row in rows]


def word(rows: Rows) -> str:
    (row,) = headlines(verdicts(rows, RULE))
    return str(row["verdict"])


@pytest.mark.parametrize("kind", ["up", "same"])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_where_tickets_diverge_they_neither_match_nor_beat(kind: str, n: int) -> None:
    rows = verdicts(changed(kind, "none", range(n), status="diverged"), RULE)
    assert "yes" not in {row["verdict"] for row in rows}
    (row,) = of(rows, "matches")
    assert (row["n_pairs"], row["n_unpaired"], row["n_diverged"]) == (8, 0, n)
    assert row["effect"] < -9
    if n < 7:
        assert row["effect_finished"] > -0.1 and row["ci_low_finished"] < row["effect_finished"]
        counted = f"{n} of 8 pairs {'has' if n == 1 else 'have'} a diverged trial, at chance accuracy; without them "
        assert counted in row["why"]
    else:
        assert row["verdict"] == "no" and "none is left without them" in row["why"]


def test_a_diverged_dense_network_is_at_chance_too() -> None:
    (row,) = of(verdicts(changed("same", "dense", range(2), status="diverged"), RULE), "matches")
    assert (row["n_diverged"], row["n_pairs"]) == (2, 8) and row["effect"] > 20
    assert row["effect_finished"] == pytest.approx(sum(EIGHT["same"][2:]) / 6)
    assert "a diverged trial" in row["why"]


@pytest.mark.parametrize("status", ["failed", "missing", "damaged"])
@pytest.mark.parametrize("control", ["none", "dense"])
def test_a_failed_or_missing_trial_forbids_a_yes_and_nothing_else(status: str, control: str) -> None:
    for kind in ("up", "same"):
        rows = verdicts(changed(kind, control, range(1, 2), status=status), RULE)
        assert "yes" not in {row["verdict"] for row in rows}
        (row,) = of(rows, "matches")
        side = "dense" if control == "dense" else "ticket"
        assert row["why"] == f'no "yes" before every planned trial has an outcome: {side} {status} (seed 1)'
        assert (row["n_unfinished"], row["p_decisive"], row["seeds_needed"]) == (1, None, None) and row["p"] < 0.05
    assert word(changed("below", control, range(1, 2), status=status)) == "falls short"


def test_an_excluded_trial_forbids_nothing() -> None:
    assert word(changed("same", "none", range(1, 2), status="excluded")) == "matches"


def test_a_ladder_stops_at_a_rung_with_a_missing_trial() -> None:
    more = trials({50: SAME * 2, 80: SAME * 2}, seeds=10)
    next(row for row in more if row["target_sparsity_pct"] == 50).update(status="missing", test_accuracy=None)
    first, second = of(verdicts(more, RULE), "matches")
    assert first["why"].startswith('no "yes"') and second["why"] == "the ladder stopped at 50 %"


def test_the_rule_of_the_verdict_has_a_version() -> None:
    assert {row["rule_version"] for row in verdicts(trials({50: SAME}), RULE)} == {2}
