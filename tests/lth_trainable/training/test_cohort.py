"""Members of a cohort are trained in turns, and end as they would alone.

Here the networks of a cohort lie side by side (`SeparateStack`), so their bytes are those of trials alone.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.run import NotStackable
from lth_trainable.store.store import Store
from lth_trainable.training import cohort
from lth_trainable.training.cohort import run_cohort
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from tests.support.grids import GRIDS
from tests.support.separate_stack import SeparateStack

K = 4
FAST = ("validated often",)


@pytest.fixture(autouse=True)
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "Stack", SeparateStack)


def trained_together(specs: list[TrialSpec], folder: Path, k: int = K) -> list[dict[str, Any]]:
    """The records of trials that are trained in one cohort after another. Each has a store of its own."""
    execution, records = Execution(replicas=k), []
    for start in range(0, len(specs), k):
        members = specs[start : start + k]
        jobs = [functools.partial(run_trial, s, Store(folder / s.name), "r", execution) for s in members]
        for outcome in run_cohort(jobs, execution, members[0]):
            assert not isinstance(outcome, Exception), outcome
            records.append(outcome)
    return records


def without_fingerprint(record: dict[str, Any]) -> dict[str, Any]:
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in record["epochs"]]
    return {"sha256": record["sha256"], "epochs": rows, "result": record["result"], "layers": record["layers"]}


@pytest.mark.parametrize("grid", [pytest.param(g, marks=() if g in FAST else pytest.mark.slow) for g in GRIDS])
def test_trials_of_a_cohort_end_as_trials_alone(grid: str, tmp_path: Path) -> None:
    specs = list(dict.fromkeys(TrialSpec(**fields) for fields in GRIDS[grid]))[: K if grid in FAST else None]
    together = trained_together(specs, tmp_path / "together")
    for spec, record in zip(specs, together, strict=True):
        alone = run_trial(spec, Store(tmp_path / "alone" / spec.name), "r")
        assert without_fingerprint(alone) == without_fingerprint(record), spec.name


def test_steps_and_measurements_of_members_are_done_together(tmp_path: Path) -> None:
    specs = [TrialSpec(control="dense", epochs=2, seed=seed, validate_every=10) for seed in range(3)]
    trained_together(specs, tmp_path)
    assert {slots for _, slots in SeparateStack.calls} == {(0, 1, 2)}
    kinds = [kind for kind, _ in SeparateStack.calls]  # 20 batches an epoch, the last one smaller
    assert kinds[:5] == ["train", "evaluate", "train", "train", "evaluate"]  # the mark, and the end of the epoch


def test_a_member_that_fails_or_diverges_or_ends_early_does_not_disturb_the_others(tmp_path: Path) -> None:
    spec = TrialSpec(control="dense", epochs=3, optimizer="sgd", lr=0.05)
    alone = run_trial(spec, Store(tmp_path / "alone"), "r")
    execution = Execution(replicas=4)

    def member(spec: TrialSpec) -> Any:
        return functools.partial(run_trial, spec, Store(tmp_path / spec.name), "r", execution)

    def failing(rows: list[dict[str, Any]]) -> None:
        raise ValueError("in its first epoch")

    bad = TrialSpec(control="dense", epochs=3, optimizer="sgd", lr=0.01)
    jobs = [
        functools.partial(run_trial, bad, Store(tmp_path / "bad"), "r", execution, failing),
        member(TrialSpec(control="dense", epochs=3, optimizer="sgd", lr=1e30)), member(spec),
        member(TrialSpec(control="dense", epochs=1, optimizer="sgd", lr=0.05)),
    ]  # fmt: skip
    failed, diverged, whole, short = run_cohort(jobs, execution, spec)
    assert isinstance(failed, ValueError)
    assert diverged["status"] == "diverged" and short["status"] == "done"
    assert without_fingerprint(whole) == without_fingerprint(alone)


def test_what_is_raised_between_steps_ends_all_members_and_leaves_no_thread(tmp_path: Path) -> None:
    specs = [TrialSpec(control="dense", epochs=2, seed=seed) for seed in range(2)]
    execution, calls = Execution(replicas=2), iter(range(3))

    def between() -> None:
        if next(calls) == 2:
            raise SystemExit

    before = threading.active_count()
    with pytest.raises(SystemExit):
        run_cohort(
            [functools.partial(run_trial, s, Store(tmp_path / s.name), "r", execution) for s in specs],
            execution, specs[0], between,
        )  # fmt: skip
    assert threading.active_count() == before


def test_a_trial_with_replicas_that_is_run_alone_is_a_cohort_of_one(tmp_path: Path) -> None:
    spec = TrialSpec(control="dense", epochs=1)
    record = run_trial(spec, Store(tmp_path), "r", Execution(replicas=3))
    assert record["fingerprint"]["replicas"] == 3 and SeparateStack.calls[0] == ("train", (0,))


def test_networks_that_cannot_be_stacked_are_trained_one_after_another_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise NotStackable("it asks for the weather")

    monkeypatch.setattr(cohort, "Stack", refused)
    specs, notes = [TrialSpec(control="dense", epochs=2, seed=seed) for seed in range(2)], list[str]()
    execution = Execution(replicas=2)
    jobs = [
        functools.partial(run_trial, s, Store(tmp_path / s.name), "r", execution, on_note=notes.append) for s in specs
    ]
    for spec, record in zip(specs, run_cohort(jobs, execution, specs[0]), strict=True):
        assert not isinstance(record, Exception)
        alone = run_trial(spec, Store(tmp_path / "alone" / spec.name), "r")
        assert without_fingerprint(record) == without_fingerprint(alone)
    assert len(notes) == 2 and all("it asks for the weather" in note for note in notes)
