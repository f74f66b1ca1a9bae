"""What Tune is told of a trial, without Ray: its reports are caught."""

from __future__ import annotations

import errno
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lth_trainable import trainable
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import StorageError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.checkpoint import CHECKPOINT
from lth_trainable.store.store import FAILURE, Store
from lth_trainable.store.trouble import TROUBLE
from lth_trainable.training import execution
from lth_trainable.tune import attempt, progress
from lth_trainable.tune.attempt import TrialFailed
from sweeps.cli.options import parse
from sweeps.planning.plan import Facts, Plan, make_plan
from sweeps.running.config import Config
from sweeps.running.worker import train as train_in_worker
from sweeps.runs.ledger import Ledger

FIELDS = {"epochs": 1, "rewind_epoch": 0, "prune_rate_pct": 40.0}


@pytest.fixture
def plan() -> Plan:
    data = load_dataset("digits")
    specs = [TrialSpec(target_sparsity_pct=target, **FIELDS) for target in (40.0, 64.0)]
    return make_plan(specs, {("digits", 0): Facts(digest=data.digest, n_train=len(data.train))})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, store: Store) -> list[dict[str, Any]]:
    Path(store.root).mkdir()  # as the driver has, before any trial
    reports: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], checkpoint: Any = None) -> None:
        files = {p.name: p.read_bytes() for p in Path(checkpoint.path).iterdir()} if checkpoint is not None else None
        reports.append({**metrics, "checkpoint": files})

    monkeypatch.setattr(trainable.tune, "report", report)
    monkeypatch.setattr(progress, "REPORT_SECONDS", math.inf)
    return reports


def test_a_state_that_others_wait_for_is_told_at_once_and_the_last_one_with_the_result(
    plan: Plan, store: Store, told: list[dict[str, Any]]
) -> None:
    deep = plan.trials[1]
    config = Config(ledger=Ledger(store=store, run="run", plan=plan, facts={}), execution={}).of(plan, deep)
    trainable.train(config)
    level, end = (node.key for node in deep.end.path())
    assert [report["stored"] for report in told] == [[level], [end]]
    assert [report.get("status") for report in told] == [None, "done"]
    assert [report["epochs_done"] for report in told] == [2, 3]
    assert [set(report["checkpoint"]) for report in told] == [{CHECKPOINT}] * 2, "at the level's end, and at the end"


def test_a_profiled_trial_counts_imports_and_waiting_and_one_that_others_trained_has_no_profile(
    plan: Plan, store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.running.worker.is_flag_set", lambda launch: False)
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    resources = parse(["digits", "--profile"])[0].resources
    for trial in plan.trials[::-1]:  # the deep one first
        train_in_worker(Config(ledger=ledger, execution=resources.execution()).of(plan, trial))
    profiles = [ledger.read_record(trial.name).get("profile") for trial in plan.trials]
    assert profiles[0] is None and profiles[1] is not None
    seconds = profiles[1]["seconds"]
    assert sum(seconds.values()) == pytest.approx(profiles[1]["wall_seconds"], abs=1e-6)
    assert seconds["import"] > 0 and seconds["waiting"] > 0 and seconds["data"] > 0
    assert "profile" not in parse(["digits"])[0].resources.execution()


def test_a_trial_and_its_result_are_a_few_plain_values_to_tune(
    plan: Plan, store: Store, told: list[dict[str, Any]]
) -> None:
    """It copies, flattens and writes down all of them for each result, and keeps them of every trial of a sweep."""
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    config = Config(ledger=ledger, execution={"threads": 1, "data_root": Path("data")}).of(plan, plan.trials[0])
    spec = plan.trials[0].spec
    assert {n: v for n, v in config.items() if n != "task"} == {
        n: v for n, v in spec.canonical().items() if v is not None
    }
    assert json.loads(config["task"])["spec"] == spec.canonical()
    trainable.train(config)
    assert len(told[-1]) < 16 and told[-1]["valid_accuracy"] > 0


def test_a_trial_that_others_have_trained_is_recorded_as_the_driver_would_and_says_so(
    plan: Plan, store: Store, told: list[dict[str, Any]]
) -> None:
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    for trial in plan.trials[::-1]:  # the deep one first
        trainable.train(Config(ledger=ledger, execution={}).of(plan, trial))
    covered = plan.trials[0]
    assert [report.get("covered") for report in told] == [None, False, True]
    assert told[-1]["epochs_done"] == 0 and set(told[-1]["checkpoint"]) == {CHECKPOINT}
    of_worker = ledger.read_record(covered.name)
    by_driver = replace(ledger, run="other")
    by_driver.record(covered, of_worker["fingerprint"])
    assert by_driver.read_record(covered.name) == of_worker


def test_on_a_gpu_the_driver_finds_the_states_of_policies_with_and_without_cycled_momentum(
    store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the fingerprints of the former say so; the driver knows that of the place. Here a CPU calls itself a GPU."""
    monkeypatch.setattr(execution, "_device_model", lambda device: "cuda: a GPU")
    data = load_dataset("digits")
    specs = [
        TrialSpec(control="dense", lr_policy=policy, batch_size=230, epochs=1) for policy in ("one_cycle", "cosine")
    ]
    plan = make_plan(specs, {("digits", 0): Facts(digest=data.digest, n_train=len(data.train))})
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    for trial in plan.trials:
        trainable.train(Config(ledger=ledger, execution={}).of(plan, trial))
    of_place = [json.loads(report["fingerprint"]) for report in told]
    assert of_place[0] == of_place[1] and "momentum" not in of_place[0]
    records = [ledger.read_record(trial.name) for trial in plan.trials]
    assert [record["fingerprint"] for record in records] == [{**of_place[0], "momentum": "on_device"}, of_place[0]]
    assert len(ledger.take_stock(repair=False).fingerprints) == 1, "no warning of two machines"
    by_driver = replace(ledger, run="other")
    assert {trial.end.key for trial in plan.trials} <= ledger.stored(of_place[0], repair=False)[0]
    for trial, record in zip(plan.trials, records, strict=True):
        assert by_driver.record(trial, of_place[0]) and by_driver.read_record(trial.name)["sha256"] == record["sha256"]


def test_other_data_or_code_than_planned_is_refused(plan: Plan, store: Store, told: list[dict[str, Any]]) -> None:
    """As on a node with another folder of data, or in a worker that came after a plug-in was edited."""
    trial = replace(plan.trials[0], key="of other data")
    trainable.train(Config(ledger=Ledger(store=store, run="run", plan=plan, facts={}), execution={}).of(plan, trial))
    assert [report["status"] for report in told] == ["failed"]
    failure = json.loads(store.read(f"run/trials/{trial.name}/{FAILURE}"))["reason"]
    assert "found other data on" in failure and "--retry-failed" in failure
    assert not store.exists("states")


@pytest.mark.parametrize("after", [0, 3, 8, 10])
def test_a_sick_storage_ends_a_trial_without_another_attempt_and_is_no_failure_of_its_own(
    plan: Plan, store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whichever of its operations it meets: the first, one of a state, one of the record."""
    calls, real = iter(range(10**9)), Store.write

    def sick(self: Store, path: str, content: bytes) -> None:
        if next(calls) >= after:
            raise StorageError(f"storage: found an error at {path}")
        real(self, path, content)

    monkeypatch.setattr(Store, "write", sick)
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    trainable.train(Config(ledger=ledger, execution={}).of(plan, plan.trials[0]))
    monkeypatch.undo()
    assert told[-1].get("status") == TROUBLE, next(calls)
    assert told[-1]["trouble"].startswith("storage: found an error at ") and told[-1]["host"]
    assert ledger.failure(plan.trials[0].name) is None


def test_an_error_of_the_trials_own_files_is_its_own(
    plan: Plan, store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "images.tgz")

    monkeypatch.setattr(attempt, "load_dataset", unreadable)
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    with pytest.raises(TrialFailed):
        trainable.train(Config(ledger=ledger, execution={}).of(plan, plan.trials[0]))
    assert "images.tgz" in (ledger.failure(plan.trials[0].name) or "") and not told


def with_deed(deed: str, store: Store, launch: str = "first") -> tuple[str, dict[str, Any]]:
    """A trial whose network does this at its third step, and its config."""
    data = load_dataset("digits")
    spec = TrialSpec(target_sparsity_pct=40.0, model=f"tests.support.bad_trials:with_{deed}", **FIELDS)
    facts = {("digits", 0): Facts(digest=data.digest, n_train=len(data.train))}
    plan = make_plan([spec], facts)
    ledger = Ledger(store=store, run="run", plan=plan, facts={})
    return spec.name, Config(ledger=ledger, execution={}, launch=launch).of(plan, plan.trials[0])


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("error", "ValueError: expected 1 channel"),
        ("leave_0", "SystemExit: 0 (its code called sys.exit)"),
        ("interrupt", "KeyboardInterrupt"),
        ("broken_message", "Broken: (its message cannot be read: ValueError)"),
        ("unpicklable", "Unpicklable: holds a lock"),
        ("recursion", "RecursionError: maximum recursion depth exceeded"),
        ("device_assert", "RuntimeError: CUDA error: device-side assert triggered Compile with"),
        ("memory", "found no memory left on this machine (device cpu)"),
        ("python_memory", "found no memory left on this machine (device cpu)"),
    ],
)
def test_what_a_trials_own_code_raises_is_tried_once_more_and_told_in_one_line(
    deed: str, reason: str, store: Store, told: list[dict[str, Any]]
) -> None:
    """Ray gets an exception that can be pickled, ends the worker for it, and starts another one."""
    name, config = with_deed(deed, store)
    for _ in range(2):
        with pytest.raises(TrialFailed) as caught:
            trainable.train(config)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert caught.value.__context__ is None
    failure = json.loads(store.read(f"run/trials/{name}/{FAILURE}"))
    assert reason in failure["reason"] and failure["reason"].endswith("(twice)") and failure["last"] is True
    assert failure["reason"].isprintable() and len(failure["reason"]) < 3000 and "Traceback" in failure["traceback"]
    trainable.train(config)
    assert (told[-1]["status"], told[-1]["reason"]) == ("failed", failure["reason"])


def test_another_launch_starts_to_count_again(store: Store, told: list[dict[str, Any]]) -> None:
    for launch in ("first", "second"):
        name, config = with_deed("error", store, launch)
        with pytest.raises(TrialFailed):
            trainable.train(config)
        assert json.loads(store.read(f"run/trials/{name}/{FAILURE}"))["last"] is False
    assert not told
