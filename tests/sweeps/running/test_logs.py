"""Watching a sweep: every epoch of every trial in the logger, nothing else in it, and no harm from one that fails."""

from __future__ import annotations

import json
import threading
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs

import sweeps.running.logger_thread
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.trainable import train
from lth_trainable.training.lifecycle import Keep
from lth_trainable.training.run import run_trial
from lth_trainable.tune import progress
from lth_trainable.tune.reports import MEMBERS
from sweeps.lth_grid import main
from sweeps.running import loggers as logs
from sweeps.running.cohorts import Start
from sweeps.running.config import Config
from sweeps.running.log_feed import Loggers
from sweeps.running.logger_thread import LoggerThread
from sweeps.running.loggers import LOGGERS, LogFolder, Logger, make_logger
from sweeps.running.submit import _environment
from sweeps.runs.ledger import Ledger
from tests.support.command import ROOT, grid, hashes
from tests.support.curves import RECORD, RESULT, ROWS, SPEC, check_curves, curves, events
from tests.support.runs import plan_of
from tests.support.wandb_files import wandb_records


def told(first: int, end: int, result: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"first": first, "rows": ROWS[first:end], "result": result}


# -- what a worker reports ---------------------------------------------------------------------------------------------


def reports(monkeypatch: pytest.MonkeyPatch, store: Store, spec: TrialSpec, log: bool) -> list[dict[str, Any]]:
    """What Ray is told of a trial, which keeps every level's end for others, at every epoch."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(progress.tune, "report", lambda metrics, checkpoint=None: found.append(metrics))
    plan = plan_of([spec], "levels")
    [trial] = plan.trials
    ledger = Ledger(store=store, run="r", plan=plan, facts={})
    Path(store.root).mkdir(exist_ok=True)  # as the driver has, before any trial
    train(Config(ledger=ledger, execution={}, log=log).of(plan, trial))
    return found


@pytest.mark.parametrize("inherits", [False, True], ids=["alone", "from a stored state"])
def test_reports_carry_every_row_once_however_rare_they_are(
    inherits: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if inherits:
        run_trial(TrialSpec(epochs=2, target_sparsity_pct=40.0), store, "r", keep=Keep(states={}))
    found = reports(monkeypatch, store, SPEC, log=True)
    record = json.loads(store.read(f"r/trials/{SPEC.name}/record.json"))
    said = [json.loads(report["log"]) for report in found]
    assert [row for log in said for row in log["rows"]] == record["epochs"] and len(record["epochs"]) == 6
    assert [log["first"] for log in said] == [sum(len(log["rows"]) for log in said[:n]) for n in range(len(said))]
    assert [log["result"] for log in said] == [None] * (len(said) - 1) + [record["result"]]
    states = sum(len(report["stored"]) for report in found[:-1])  # told at once, since others wait for them
    assert states == (0 if inherits else 2)
    assert len(said) == 1 + states + record["epochs_trained"] and (len(said[0]["rows"]) > 1) == inherits


def test_without_loggers_reports_carry_nothing_for_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("log" not in report for report in reports(monkeypatch, store, SPEC, log=False))
    assert not Loggers()


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_tensorboard_has_the_whole_curve_and_the_spec(store: Store) -> None:
    with Loggers.open(["tensorboard"], store, "r").running() as told_of:
        told_of.begin(SPEC)
        told_of.report(SPEC.name, told(0, 1))
        told_of.report(SPEC.name, told(1, 4))
        told_of.report(SPEC.name, told(4, 6, RESULT))
        told_of.end(SPEC.name)
    folder = Path(store.root, "r", "tensorboard", SPEC.name)
    check_curves(curves(folder), RECORD)
    assert told_of.notes == [] and told_of.watch == [f"tensorboard --logdir {folder.parent}"]
    parameters = str([event for event in events(folder) if "hparams" in str(event)])
    assert "target_sparsity_pct" in parameters and "large_final" in parameters
    for private in ("storage", "stored", "fingerprint", "notes", "execution"):
        assert private not in parameters


def test_a_trial_recorded_by_the_driver_is_there_like_any_other(store: Store) -> None:
    with Loggers.open(["tensorboard"], store, "r").running() as told_of:
        told_of.recorded(SPEC, RECORD)
    check_curves(curves(Path(store.root, "r", "tensorboard", SPEC.name)), RECORD)


def test_a_trial_whose_worker_died_goes_on_with_its_curve(store: Store) -> None:
    with Loggers.open(["tensorboard"], store, "r").running() as told_of:
        told_of.begin(SPEC)
        told_of.report(SPEC.name, told(0, 3))
        told_of.begin(SPEC)
        told_of.report(SPEC.name, told(0, 2))
        told_of.report(SPEC.name, told(2, 6, RESULT))
        told_of.end(SPEC.name)
    check_curves(curves(Path(store.root, "r", "tensorboard", SPEC.name)), RECORD)


def test_a_trial_that_another_command_began_has_one_curve(store: Store) -> None:
    with Loggers.open(["tensorboard"], store, "r").running() as told_of:
        told_of.begin(SPEC)
        told_of.report(SPEC.name, told(0, 5))
    assert len(curves(Path(store.root, "r", "tensorboard", SPEC.name))["lr"]) == 5
    with Loggers.open(["tensorboard"], store, "r").running() as told_of:
        told_of.recorded(SPEC, RECORD)
    check_curves(curves(Path(store.root, "r", "tensorboard", SPEC.name)), RECORD)


def test_a_diverged_trial_has_what_there_is(store: Store) -> None:
    rows = [*ROWS[:2], {**ROWS[2], "train_loss": None, "valid_loss": None, "valid_accuracy": None}]
    result = {**dict.fromkeys(RESULT), "n_kept": 7, "collapsed_layers": []}
    with Loggers.open(["tensorboard"], store, "r").running() as told_of:
        told_of.recorded(SPEC, {"epochs": rows, "result": result})
    found = curves(Path(store.root, "r", "tensorboard", SPEC.name))
    check_curves(found, {"epochs": rows, "result": result})
    assert len(found["lr"]) == 3 and len(found["train_loss"]) == 2 and "final/test_loss" not in found
    assert told_of.notes == []


@pytest.mark.slow
def test_mlflow_has_the_whole_curve_and_the_spec(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="for the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path(store.root).mkdir()
    unfinished = TrialSpec(epochs=2, target_sparsity_pct=40.0)
    with Loggers.open(["mlflow"], store, "r").running() as told_of:
        told_of.recorded(SPEC, RECORD)
        told_of.begin(unfinished)
        told_of.report(unfinished.name, told(0, 1))
    assert told_of.notes == []
    [watch] = told_of.watch
    uri = watch.removeprefix("mlflow ui --backend-store-uri ")
    assert uri == f"sqlite:///{store.root}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("r").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert by_name[unfinished.name].info.status == "FAILED"
    run = by_name[SPEC.name]
    assert run.info.status == "FINISHED" and run.data.params["target_sparsity_pct"] == "64.0"
    found = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    check_curves(found, RECORD)


def test_mlflow_without_a_server_needs_a_storage_that_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="for the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store(tmp_path)
    store.fs = fs.SubTreeFileSystem(str(tmp_path), store.fs)  # no folder for those who ask
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        Loggers.open(["mlflow"], store, "r")


def test_mlflow_whose_server_does_not_answer_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="for the extra mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"mlflow cannot be set up.*set MLFLOW_TRACKING_URI to"):
        Loggers.open(["mlflow"], store, "r")


@pytest.mark.slow
def test_wandb_has_the_whole_curve_and_the_spec(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="for the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with Loggers.open(["wandb"], store, "r").running() as told_of:
        told_of.recorded(SPEC, RECORD)
    assert told_of.notes == []
    [file] = Path(store.root, "r", "wandb", SPEC.name).glob("wandb/offline-run-*/run-*.wandb")
    records = list(wandb_records(file))
    [run] = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.run_group) == ("r", SPEC.name, "r")
    config = {item.key: item.value_json for item in run.config.update}
    assert config["target_sparsity_pct"] == "64.0" and "storage" not in config
    found = defaultdict(list)
    for record in records:
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        for name in items.keys() - {"_step", "_runtime", "_timestamp"}:
            found[name].append((items["_step"], items[name]))
    check_curves(found, RECORD)
    assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [0]


def test_wandb_without_an_account_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="for the extra wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"wandb cannot be set up.*WANDB_MODE=offline"):
        Loggers.open(["wandb"], store, "r")


# -- what fails --------------------------------------------------------------------------------------------------------


class Flaky:
    """A logger that fails at the results of one trial, and notes what it is told."""

    def __init__(self, fails_for: str = "") -> None:
        self.fails_for = fails_for
        self.heard: list[tuple[str, str]] = []

    def setup(self) -> None:
        pass

    def on_trial_start(self, *, trial: Any, **_: Any) -> None:
        self.heard.append(("start", trial.name))

    def on_trial_result(self, *, trial: Any, **_: Any) -> None:
        if trial.name == self.fails_for:
            raise ConnectionError("the server is gone")
        self.heard.append(("result", trial.name))

    def on_step_end(self, **_: Any) -> None:
        pass

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        self.heard.append(("complete", trial.name))

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        self.heard.append(("error", trial.name))

    def on_experiment_end(self, **_: Any) -> None:
        self.heard.append(("end", ""))


def test_a_logger_that_fails_loses_that_trial_and_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    other = TrialSpec(epochs=2, target_sparsity_pct=40.0)
    log_folder, flaky = LogFolder(store, "r"), Flaky(fails_for=SPEC.name)
    threads = [LoggerThread("flaky", Logger(callback=flaky, watch=""), log_folder)]
    threads.append(LoggerThread("tensorboard", make_logger("tensorboard", log_folder), log_folder))
    with Loggers(threads).running() as told_of:
        told_of.recorded(SPEC, RECORD)
        told_of.recorded(other, {**RECORD, "epochs": ROWS[:1]})
    reason = f"flaky: {SPEC.name} is incomplete there (ConnectionError: the server is gone)"
    assert told_of.notes == [f"{reason}; the run itself has everything"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert said == [f"note: {reason}; the sweep continues"]
    assert flaky.heard == [
        ("start", SPEC.name), ("complete", SPEC.name), ("start", other.name), ("result", other.name),
        ("result", other.name), ("complete", other.name), ("end", ""),
    ]  # fmt: skip
    check_curves(curves(Path(store.root, "r", "tensorboard", SPEC.name)), RECORD)


def test_a_trial_that_has_no_result_has_failed(store: Store) -> None:
    callback = Flaky()
    with Loggers([LoggerThread("x", Logger(callback=callback, watch=""), LogFolder(store, "r"))]).running() as told_of:
        told_of.begin(SPEC)
        told_of.report(SPEC.name, told(0, 1))
    assert callback.heard == [("start", SPEC.name), ("result", SPEC.name), ("error", SPEC.name), ("end", "")]


def test_a_sweep_does_not_wait_for_ever_for_a_logger(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.running.logger_thread, "PATIENCE_SECONDS", 0.0)
    answer = threading.Event()
    callback = Flaky()
    monkeypatch.setattr(callback, "on_trial_result", lambda **_: answer.wait())
    with Loggers([LoggerThread("x", Logger(callback=callback, watch=""), LogFolder(store, "r"))]).running() as told_of:
        told_of.recorded(SPEC, RECORD)
    [note] = told_of.notes
    answer.set()
    assert note.startswith(f"x: {SPEC.name} is incomplete there (no progress for ")


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_told_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(logs.PACKAGES, name, "no_such_package")
    assert main(["digits", "--log", name, "--storage", str(tmp_path / "runs")]) == 2
    error = f"error: log: {name} found no package no_such_package; pip install 'lottery-sweep[{name}]'\n"
    assert capsys.readouterr().err == error
    assert not (tmp_path / "runs").exists()


def test_every_logger_is_an_extra_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, package in logs.PACKAGES.items():
        assert any(need.startswith(package) for need in project["optional-dependencies"][name])
    assert set(logs.PACKAGES) == set(LOGGERS)


def test_a_submitted_job_logs_to_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert _environment()["MLFLOW_TRACKING_URI"] == "http://tracking:5000" and "WANDB_API_KEY" not in _environment()


# -- a whole sweep -----------------------------------------------------------------------------------------------------

SMALL = ["--epochs", "2", "--sparsity", "40", "64", "--rewind-epoch", "0", "--seeds", "1"]


@pytest.mark.slow
def test_a_sweep_is_logged_whole_beside_a_logger_that_fails_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    loggers = ["--log", "tests.plugins:gone_logger", "tests.plugins:judged_logger", "tensorboard"]
    code, summary, out, err = grid(tmp_path / "logged", *SMALL, *loggers, "--log-tickets", "best")
    assert code == 0 and summary["done"] == 3, out + err
    assert err.count("(ConnectionError: the server is gone); the sweep continues") == 1 and "Traceback" not in err
    assert "so are 2 more of 3 trials; the run itself has everything" in out
    run = tmp_path / "logged" / "digits"
    assert f"watch: tensorboard --logdir {run}/tensorboard" in out
    answer, ticket = (run / "judged.txt").read_text().splitlines()
    assert answer in out and ticket.startswith("digits-lenet_300_100-imp-s64-r0-e2-seed0: README.md, config.json, ")
    for file in (run / "trials").glob("*/record.json"):
        check_curves(curves(run / "tensorboard" / file.parent.name), json.loads(file.read_text()))
    assert grid(tmp_path / "plain", *SMALL)[0] == 0
    assert hashes(tmp_path / "logged") == hashes(tmp_path / "plain")
    assert not (tmp_path / "plain" / "digits" / "tensorboard").exists()
    code, summary, out, err = grid(tmp_path / "logged", *SMALL, "--name", "again", "--log", "tensorboard")
    assert (code, summary["epochs_trained"], summary["shared"]) == (0, 0, 3), "recorded from stored states, without Ray"
    for file in (run.parent / "again" / "trials").glob("*/record.json"):
        check_curves(curves(run.parent / "again" / "tensorboard" / file.parent.name), json.loads(file.read_text()))


def test_members_of_a_cohort_have_curves_of_their_own_and_end_by_themselves(store: Store) -> None:
    """One Ray trial, whose reports have a part for each member; one member is tried again in another Ray trial."""
    other = replace(SPEC, seed=SPEC.seed + 1)
    plan = plan_of([SPEC, other])
    first, second = plan.trials
    config = Config(ledger=Ledger(store=store, run="r", plan=plan, facts={}), execution={}, log=True)

    def part(name: str, log: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return {name: {"log": json.dumps(log), **more}}

    with Loggers.open(["tensorboard"], store, "r").running() as told_of:
        callback = told_of.callback()

        def tell(trial: Any, **parts: Any) -> None:
            callback.on_trial_result(0, [], trial, {MEMBERS: json.dumps(parts)})

        cohort = SimpleNamespace(config=config.of(plan, first, None, Start(others=(second,), number=1)))
        callback.on_trial_start(0, [], cohort)
        tell(cohort, **part(SPEC.name, told(0, 3)), **part(other.name, told(0, 2)))
        tell(
            cohort, **part(SPEC.name, told(3, 6, RESULT), status="done"),
            **part(other.name, told(2, 2), status="again"),
        )  # fmt: skip
        callback.on_trial_complete(0, [], cohort)
        alone = SimpleNamespace(config=config.of(plan, second))
        callback.on_trial_start(0, [], alone)
        callback.on_trial_result(0, [], alone, {"log": json.dumps(told(0, 6, RESULT))})
        callback.on_trial_complete(0, [], alone)
    for name in (SPEC.name, other.name):
        check_curves(curves(Path(store.root, "r", "tensorboard", name)), RECORD)
    assert told_of.notes == []
