"""What Tune is told of a cohort, without Ray: its reports are caught. Whether networks are stacked does not matter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import NoRoom, StorageError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.run import NotStackable
from lth_trainable.store.checkpoint import CHECKPOINT
from lth_trainable.store.store import FAILURE, Store
from lth_trainable.store.trouble import TROUBLE
from lth_trainable.tune import progress
from lth_trainable.tune.attempt import TrialFailed
from lth_trainable.tune.cohort import CohortTrial
from lth_trainable.tune.config import members_of, task_of
from lth_trainable.tune.recorded import tell_recorded
from lth_trainable.tune.reports import AGAIN, LOST, MEMBERS, NO_ROOM, STOPPED, UNSTACKABLE
from sweeps.planning.plan import Facts, Plan, make_plan
from sweeps.running.cohorts import Start
from sweeps.running.config import Config
from sweeps.runs.ledger import Ledger

FIELDS: dict[str, Any] = {"epochs": 1, "rewind_epoch": 0, "prune_rate_pct": 40.0, "target_sparsity_pct": 40.0}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, store: Store) -> list[dict[str, Any]]:
    Path(store.root).mkdir()  # as the driver has, before any trial
    reports: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], checkpoint: Any = None) -> None:
        files = {p.name for p in Path(checkpoint.path).iterdir()} if checkpoint is not None else set()
        reports.append({**metrics, MEMBERS: json.loads(metrics.get(MEMBERS, "{}")), "checkpoint": files})

    monkeypatch.setattr(progress.tune, "report", report)
    monkeypatch.setattr("lth_trainable.tune.cohort.REPORT_SECONDS", math.inf)
    return reports


def planned(*specs: TrialSpec) -> Plan:
    data = load_dataset("digits")
    return make_plan(specs, {("digits", 0): Facts(digest=data.digest, n_train=len(data.train))})


def seeds(number: int, **fields: Any) -> Plan:
    return planned(*(TrialSpec(**{**FIELDS, **fields, "seed": seed}) for seed in range(number)))


def task_for(store: Store, plan: Plan, launch: str = "a", place: Any = None, **more: Any) -> Any:
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    first, *others = plan.trials
    config = Config(ledger=ledger, execution={"replicas": 4}, launch=launch, **more)
    return task_of(config.of(plan, first, place, Start(others=tuple(others), number=1)))


def train(task: Any, should_stop: Callable[[], bool] = lambda: False) -> None:
    CohortTrial(task, should_stop).run()


def statuses(told: list[dict[str, Any]]) -> list[str]:
    """Of all members, as the last report has them, in the order of their seeds."""
    return [part["status"] for _, part in sorted(told[-1][MEMBERS].items())]


def record_of(store: Store, name: str) -> Any:
    return json.loads(store.read(f"run/trials/{name}/record.json"))


def test_the_tasks_of_members_are_those_of_trials_alone(store: Store) -> None:
    plan = planned(*(TrialSpec(**FIELDS, seed=s, control=c) for s in range(2) for c in ("none", "reinit")))
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    config = Config(ledger=ledger, execution={"replicas": 4})
    alone = [dict(task_of(config.of(plan, trial))) for trial in plan.trials]
    together = members_of(task_for(store, plan, launch=""))
    for one, other, trial in zip(alone, together, plan.trials, strict=True):
        assert {n: v for n, v in other.items() if n in one and n != "spec"} == {
            n: v for n, v in one.items() if n != "spec"
        }
        assert TrialSpec(**other["spec"]) == trial.spec


def test_every_member_is_recorded_and_told_and_the_first_has_the_checkpoint(
    store: Store, told: list[dict[str, Any]]
) -> None:
    plan = seeds(3)
    train(task_for(store, plan, log=True))
    first, *_ = plan.trials
    assert {key for report in told for key in report["stored"]} >= {trial.end.key for trial in plan.trials}
    assert sum(len(report["stored"]) for report in told) == len({key for r in told for key in r["stored"]})
    last = told[-1]
    assert set(last[MEMBERS]) == {trial.name for trial in plan.trials} and statuses(told) == ["done"] * 3
    assert (last["status"], last["done"], last["checkpoint"]) == ("done", True, {CHECKPOINT})
    assert not any("status" in report or "done" in report for report in told[:-1])
    for trial in plan.trials:
        record, parts = record_of(store, trial.name), [r[MEMBERS][trial.name] for r in told if trial.name in r[MEMBERS]]
        assert record["epochs_trained"] == parts[-1]["epochs_done"] == 2
        assert parts[-1]["test_accuracy"] == record["result"]["test_accuracy"]
        logs = [json.loads(part["log"]) for part in parts if "log" in part]
        assert [row for log in logs for row in log["rows"]] == record["epochs"]
        assert [log["result"] for log in logs if log["result"]] == [record["result"]]
        assert json.loads(last["fingerprint"]) == record["fingerprint"] and record["fingerprint"]["replicas"] == 4
    assert last["test_accuracy"] == record_of(store, first.name)["result"]["test_accuracy"]


def test_a_member_that_fails_is_to_be_tried_again_then_failed_and_the_others_are_done(
    store: Store, told: list[dict[str, Any]]
) -> None:
    model = "tests.support.bad_trials:with_error"
    bad = TrialSpec(**FIELDS, model=model)
    good = TrialSpec(**{n: v for n, v in FIELDS.items() if n == "epochs"}, model=model, control="dense", seed=1)
    plan = planned(bad, good)
    task = task_for(store, plan)
    train(task)
    parts = told[-1][MEMBERS]
    assert (parts[bad.name]["status"], parts[good.name]["status"]) == (AGAIN, "done")
    assert told[-1]["status"] == AGAIN and told[-1]["done"], "Ray's trial has the name of the first"
    assert json.loads(store.read(f"run/trials/{bad.name}/{FAILURE}"))["last"] is False
    train(task)
    parts = told[-1][MEMBERS]
    assert parts[bad.name]["status"] == "failed" and parts[bad.name]["reason"].endswith("(twice)")
    assert parts[good.name]["covered"], "it is recorded from its stored states"
    assert any("tried again after ValueError" in note for report in told for note in report["notes"])


def test_a_diverged_member_is_recorded_as_such(store: Store, told: list[dict[str, Any]]) -> None:
    plan = planned(*(TrialSpec(control="dense", epochs=1, optimizer="sgd", lr=lr) for lr in (0.05, 1e30)))
    train(task_for(store, plan))
    assert sorted(statuses(told)) == ["diverged", "done"]


@pytest.mark.parametrize("deed", ["leave_0", "broken_message", "recursion", "stop_iteration"])
def test_whatever_a_members_own_code_raises_is_its_own(store: Store, told: list[dict[str, Any]], deed: str) -> None:
    model = f"tests.support.bad_trials:with_{deed}"
    dense = TrialSpec(epochs=1, model=model, control="dense")
    plan = planned(dense, TrialSpec(**FIELDS, model=model))
    train(task_for(store, plan))
    found = {name == dense.name: part["status"] for name, part in told[-1][MEMBERS].items()}
    assert found == {True: "done", False: AGAIN}


def test_a_broken_gpu_is_nobodys_failure_and_another_process_goes_on(store: Store, told: list[dict[str, Any]]) -> None:
    model = "tests.support.bad_trials:with_device_assert"
    plan = planned(TrialSpec(epochs=1, model=model, control="dense"), TrialSpec(**FIELDS, model=model))
    with pytest.raises(TrialFailed, match="device-side assert"):
        train(task_for(store, plan))
    ends = [part["status"] for report in told for part in report[MEMBERS].values() if "status" in part]
    assert sorted(ends) == ["done", LOST]
    assert "done" not in told[-1], "Ray starts the trial again, on another worker"
    assert not any(store.exists(f"run/trials/{trial.name}/{FAILURE}") for trial in plan.trials)


@pytest.mark.parametrize(("sharing", "status"), [(1, LOST), (2, NO_ROOM)])
def test_a_member_without_memory_is_handed_out_again(
    store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, sharing: int, status: str
) -> None:
    from lth_trainable.training import run

    plan, real = seeds(2), run.run_trial

    def run_trial(spec: TrialSpec, *args: Any, **more: Any) -> Any:
        if spec.seed == 1:
            raise NoRoom("no memory")
        return real(spec, *args, **more)

    monkeypatch.setattr(run, "run_trial", run_trial)
    train({**task_for(store, plan), "place": {"sharing": sharing}})
    assert statuses(told) == ["done", status]
    assert not store.exists(f"run/trials/{plan.trials[1].name}/{FAILURE}")


def test_members_that_are_asked_to_stop_store_their_epoch_and_go_on_later(
    store: Store, told: list[dict[str, Any]]
) -> None:
    plan = seeds(2, epochs=4)
    asked: list[bool] = []
    train(task_for(store, plan), lambda: len(asked) > 2 or bool(asked.append(True)))
    assert statuses(told) == [STOPPED] * 2
    done = {name: part["epochs_done"] for name, part in told[-1][MEMBERS].items()}
    assert all(0 < epochs < 8 for epochs in done.values())
    assert sum(len(report["stored"]) for report in told) >= 2
    train(task_for(store, plan))
    for trial in plan.trials:
        assert record_of(store, trial.name)["epochs_trained"] == 8 - done[trial.name]


def test_a_sick_storage_is_no_failure_of_any_member(
    store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sick(self: Store, path: str, content: bytes) -> None:
        raise StorageError(f"storage: found an error at {path}")

    monkeypatch.setattr(Store, "write", sick)
    train(task_for(store, seeds(2)))
    assert statuses(told) == [TROUBLE] * 2 and told[-1]["status"] == TROUBLE


def test_an_error_of_the_stack_itself_loses_all_members_that_have_not_ended(
    store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lth_trainable.training import cohort

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(cohort.Cohort, "_serve", broken)
    with pytest.raises(TrialFailed, match="no such kernel"):
        train(task_for(store, seeds(2)))
    assert statuses(told) == [LOST] * 2


def test_that_networks_cannot_be_stacked_is_told_before_they_are_trained(
    store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lth_trainable.training import cohort

    def refused(*_: Any) -> None:
        raise NotStackable("it asks for the weather")

    monkeypatch.setattr(cohort, "Stack", refused)
    monkeypatch.setattr("lth_trainable.tune.cohort.REPORT_SECONDS", 0.0)
    train(task_for(store, planned(*(TrialSpec(control="dense", epochs=3, seed=seed) for seed in range(2)))))
    first = next(report for report in told if report[UNSTACKABLE])
    assert first["epochs_done"] == 1 and statuses(told) == ["done"] * 2


def test_a_recorded_trial_is_told_by_its_record_alone(store: Store, told: list[dict[str, Any]]) -> None:
    plan = seeds(2)
    train(task_for(store, plan))
    trial = plan.trials[1]
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    config = Config(ledger=ledger, execution={"replicas": 4}).of(plan, trial, None, Start(recorded=True))
    before = store.read(f"run/trials/{trial.name}/record.json")
    tell_recorded(task_of(config))
    assert (told[-1]["status"], told[-1]["done"], told[-1]["checkpoint"]) == ("done", True, {CHECKPOINT})
    assert told[-1]["test_accuracy"] == record_of(store, trial.name)["result"]["test_accuracy"]
    assert store.read(f"run/trials/{trial.name}/record.json") == before
    other = replace(trial, key="of other data")
    tell_recorded(task_of(Config(ledger=ledger, execution={}).of(plan, other, None, Start(recorded=True))))
    assert told[-1]["status"] == LOST
