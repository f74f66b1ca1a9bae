"""Trials that are trained in cohorts, and what of their records does not depend on time or company."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.cohort import run_cohort
from lth_trainable.training.early_stop import FrequentEarlyStop
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial


def trained_together(specs: list[TrialSpec], folder: Path, execution: Execution) -> list[dict[str, Any]]:
    """The records of trials that are trained in one cohort after another. Each has a store of its own."""
    records, k = list[dict[str, Any]](), execution.replicas
    for start in range(0, len(specs), k):
        members = specs[start : start + k]
        jobs = [functools.partial(run_trial, s, Store(folder / s.name), "r", execution) for s in members]
        for outcome in run_cohort(jobs, execution, members[0]):
            assert not isinstance(outcome, BaseException), outcome
            records.append(outcome)
    return records


def results(record: dict[str, Any]) -> dict[str, Any]:
    """Digests and figures of a record, without times and the fingerprint."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in record["epochs"]]
    return {"epochs": rows, **{name: record[name] for name in ("sha256", "result", "layers")}}


def turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, members that validate within epochs stop there and ask for it."""
    monkeypatch.delattr(FrequentEarlyStop, "take_marks")
